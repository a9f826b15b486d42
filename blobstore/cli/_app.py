"""The tree of commands. Each is named by its module, which is imported only when that command runs."""

from __future__ import annotations

from cyclopts import App, Parameter

import blobstore
from blobstore.cli._gc import gc as gc_command

_COMMANDS = {
    "serve": ("_serve:serve", "Serve a registry over HTTP, collecting on its schedule."),
    "init": ("_init:init", "Make a store."),
    "import": ("_images:import_", "Import an OCI image layout (directory or tar) or a `docker save` tar."),
    "export": ("_images:export", "Write an image as an OCI image layout, a directory or a .tar."),
    "copy": ("_copy:copy", "Copy a store into another, on whatever storage; again for what is new."),
    "put": ("_blobs:put", "Store a blob and print its digest."),
    "get": ("_blobs:get", "Read a blob, verified."),
    "stat": ("_blobs:stat", "Show what is known of a blob."),
    "unpin": ("_blobs:unpin", "Let go of a blob that was put without a repository."),
    "ls": ("_list:ls", "List the repositories, or the tags of one."),
    "tag": ("_references_commands:tag", "Point a tag at a manifest."),
    "untag": ("_references_commands:untag", "Remove a tag; the manifest stays."),
    "rm": ("_references_commands:rm", "Remove a manifest or a repository; bytes go with gc."),
    "du": ("_usage:du", "Show the bytes each repository refers to, and what deleting it would free."),
    "stats": ("_usage:stats", "Show what the store holds in all."),
    "check": ("_check:check", "Compare index and backend, both ways; with --read-data, every hash."),
}


def build() -> App:
    """All commands."""
    app = App(
        name="blobstore",
        help="The storage engine under a container registry: blobs by digest, stored once, collected safely.",
        version=f"blobstore {blobstore.__version__}",
        default_parameter=Parameter(negative="", show_default=False),
        help_format="plaintext",
        suppress_keyboard_interrupt=False,
    )
    for name, (place, text) in _COMMANDS.items():
        app.command(f"blobstore.cli.{place}", name=name, help=text)
    gc = App(name="gc", help="Free what no manifest needs; see also explain, runs, undo.")
    gc.default(gc_command)
    gc.command("blobstore.cli._gc_reports:explain", name="explain", help="Say what keeps a blob, or when it may go.")
    gc.command("blobstore.cli._gc_reports:undo", name="undo", help="Bring back what a run condemned or dropped.")
    gc.command("blobstore.cli._gc_reports:runs", name="runs", help="List past runs.")
    index = App(name="index", help="Work on the index.")
    index.command(
        "blobstore.cli._check:rebuild", name="rebuild", help="Make a new index from what lies on the backend."
    )
    app.command(gc)
    app.command(index)
    return app
