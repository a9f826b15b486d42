"""Which verb of the index is which transition of the models: what keeps the two from drifting apart unseen."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from blobstore.abc.index import Index

FOLDER = Path(__file__).parent
MODELS = ("collector", "family", "power")

VERBS: Mapping[str, tuple[str, ...]] = {
    # collector.pml: each inline of a transaction bears the name of its verb, if it has but one.
    "start_upload": ("start_upload",),
    "touch_blob": ("touch_blob",),
    "mount_blob": ("mount_blob",),
    "commit_blob": ("commit_blob", "put_manifest"),
    "put_manifest": ("put_manifest", "reinstate_manifest"),
    "delete_manifest": ("delete_manifest", "continue_removals", "drop_manifests"),
    "delete_blob": ("delete_blob", "unpin_blob"),
    "undo_condemned": ("undo_condemned", "pin_blob"),
    "suspect_blob": ("suspect_blob",),
    "expire_upload": ("expire_upload", "cancel_upload"),
    "condemn": ("condemn",),
    "sweep_holds": ("sweep_holds", "condemn"),
    "retire": ("retire",),
    "forget_trash": ("forget_trash",),
    "trash_orphans": ("trash_orphans",),
    # family.pml
    "put_child": ("put_manifest",),
    "put_parent": ("put_manifest",),
    "drop_manifests": ("drop_manifests",),
    "drop_both": ("drop_manifests",),
    # power.pml
    "rebuild": ("restore_blobs", "restore_trash", "restore_manifest", "finish_rebuild"),
    "write_journal": ("list_outbox",),
}
"""By the name of the `inline`: the verbs that do this."""

WITHIN: Mapping[str, str] = {
    "revive": "part of whatever finds a condemned blob wanted",
    "promise": "part of HEAD, mount, commit and undo",
    "retiring_row": "part of whatever lets bytes go",
    "remove_row": "part of retire",
    "insert_record": "part of a manifest's put",
    "remove_record": "part of a delete and of a drop",
    "lapse": "time goes by; no verb",
    "put_bytes": "a request to the backend",
    "delete_bytes": "a request to the backend",
    "sync_bytes": "fsync of files and directories",
    "sync_index": "a commit of LMDB",
    "sync_journal": "put_new of a journal object came back",
    "sound": "the properties",
    "sound_after_cut": "the properties",
    "collect_all": "two collections at the end, made of the transitions above",
    "quiet_end": "the property of the end",
}
"""Inlines that are no transition of their own, and why."""

NOT_MODELLED: Mapping[str, str] = {
    "renew_upload": "time: an intent may expire at any moment in the models, renewed or not",
    "close_intent": "of a checkpoint, whose bytes are no blob",
    "touch_manifest": "time: a record's grace may be over at any moment in the models",
    "put_tag": "family.pml sets tags as it likes; blobs know nothing of them",
    "delete_tag": "as put_tag",
    "hide_repository": "renames; what stood there is taken apart by continue_removals",
    "save_run": "a report",
    "freeze": "stops collectors; the models' may stop at any moment",
    "note_clock": "as freeze",
    "note_orphan_scan": "whether a listing is due: the models' may list at any moment",
    "ask_orphan_scan": "as note_orphan_scan",
    "trim_outbox": "rows that the journal holds already",
    "restore_epochs": "rebuild; generations are not minted twice in the models",
    "restore_tag": "rebuild; as put_tag",
    "restore_pin": "rebuild; a hold",
    "restore_alias": "rebuild; another name of the same digest",
    "initialise": "the first verb of an index",
}
"""Verbs that write, and why no transition stands for them."""

_INLINE = re.compile(r"^inline (\w+)\(", re.MULTILINE)


def inlines(model: str) -> list[str]:
    """What a model defines."""
    return _INLINE.findall((FOLDER / f"{model}.pml").read_text())


def writing_verbs(index: type[Index]) -> Iterator[str]:
    """The verbs of an index that go through its write transaction."""
    for name, verb in inspect.getmembers(index, inspect.isfunction):
        if not name.startswith("_") and "self._write(" in inspect.getsource(verb):
            yield name
