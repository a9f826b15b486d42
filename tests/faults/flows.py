"""The flows whose every system call is made to fail: what is there before, what is done, what may be seen if it fails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from blobstore.errors import BlobstoreError
from blobstore.testing.fakes import image, image_index
from tests.faults.stage import Stage

Act = Callable[[Stage], Awaitable[None]]

REFERENCES = ("tags", "manifests", "pins")


class Flow(msgspec.Struct, frozen=True):
    """One flow.

    `prepare` makes what is there before, on a store with images that must survive it. `act` is what fails, and what is done
    again; once it has happened it may instead raise one of `already`. A flow of one step is seen whole or not at all; of
    another, the `sections` of the view may show any part of it, and nothing else. One that
    `is_finished_by_a_collection` may cost one collection more where it was killed half way. It `opens` the store itself, or
    `creates` it; else it finds it open.
    """

    name: str
    act: Act
    prepare: Act | None = None
    already: tuple[type[BlobstoreError], ...] = ()
    is_one_step: bool = True
    is_finished_by_a_collection: bool = False
    opens: bool = False
    creates: bool = False


FLOWS: dict[str, Flow] = {}


def add(flow: Flow) -> None:
    """Put a flow on the list."""
    assert flow.name not in FLOWS
    FLOWS[flow.name] = flow


KEPT_LAYER = b"a layer that must stay " * 50
KEPT = image(b'{"kept":1}', [KEPT_LAYER, b"a layer of its own"])
CHILDREN = [image(b'{"child":%d}' % each, [KEPT_LAYER, b"the layer of a child %d" % each]) for each in range(2)]
KEPT_INDEX = image_index(CHILDREN)


async def push_what_must_stay(stage: Stage) -> None:
    """An image, an image index, and an image in another repository that shares a layer: acknowledged before any fault."""
    bench = stage.bench
    await bench.push_image(b'{"kept":1}', [KEPT_LAYER, b"a layer of its own"], "kept")
    for each in range(2):
        await bench.push_image(b'{"child":%d}' % each, [KEPT_LAYER, b"the layer of a child %d" % each])
    await bench.push(KEPT_INDEX, "both")
    await bench.push_image(b'{"kept":2}', [KEPT_LAYER], "kept", repository="other")
