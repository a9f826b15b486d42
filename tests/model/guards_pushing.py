"""The guards of uploads and of single blobs."""

from __future__ import annotations

from typing import Any

from tests.model.state import CONDEMNED, SUSPECT, IntentRow
from tests.model.world import NOBODY, PINNED_MS, Broken, Refused, World

Arguments = dict[str, Any]
Judged = tuple[Any, Any]


def start_upload(world: World, given: Arguments, said: Any) -> Judged:
    """A generation that was never minted, and an intent before the first byte."""
    generation = said["generation"]
    epoch, counter = generation.split("-")
    if int(counter, 16) <= world.state.epochs.get(epoch, 0):
        raise Broken(f"{generation} was minted before")
    world.state.epochs[epoch] = int(counter, 16)
    names = [f"upload {generation}"]
    if given["digest"] is not None:
        names.append(f"blob {given['digest']} {generation}")
    world.state.intents[given["upload"]] = IntentRow(generation, given["repository"], names, given["now_ms"])
    return names, said["names"]


def renew_upload(world: World, given: Arguments, said: Any) -> Judged:
    """Bytes arrived for an intent that is still there."""
    row = world.state.intents.get(given["upload"])
    if row is None:
        return False, said
    row.renewed_at_ms = given["now_ms"]
    if row.repository is not None:
        world.note_activity(row.repository, given["now_ms"], given["terms"])
    return True, said


def settle(world: World, given: Arguments) -> str:
    """Durable bytes become those of a digest, or are not needed: the part that blobs and manifests share. Returns the outcome."""
    intent, digest, names, now_ms = given["intent"], given["content"]["digest"], given["names"], given["now_ms"]
    generation, row = intent["generation"], world.blob(given["content"]["digest"])
    if intent["upload"] not in world.state.intents:
        if row is not None and row.generation == generation:
            return _said_twice(world, digest)
        if names:
            world.trash(generation, [*intent["names"], *names], now_ms)
        return "interrupted"
    if row is None or row.state == SUSPECT or world.state.is_frozen:
        if not names:
            return "not published"
        if row is not None and row.state == CONDEMNED:
            world.revive(digest)
        del world.state.intents[intent["upload"]]
        world.install(digest, generation, names, now_ms)
        return "stored"
    opened = world.state.intents.pop(intent["upload"])
    world.trash(generation, [*opened.names, *names], now_ms)
    if row.state == CONDEMNED:
        world.revive(digest)
        return "revived"
    return "duplicate"


def _said_twice(world: World, digest: str) -> str:
    row = world.state.blobs[digest]
    if row.state == CONDEMNED:
        world.revive(digest)
    return "duplicate" if row.state != SUSPECT else "interrupted"


def commit_blob(world: World, given: Arguments, said: Any) -> Judged:
    """Fenced by its intent; a blob afterwards, promised to the repository."""
    outcome = settle(world, given)
    if outcome in ("stored", "duplicate", "revived"):
        digest, repository = given["content"]["digest"], given["intent"]["repository"]
        world.add_aliases(digest, given["content"]["aliases"])
        if given["is_pinned"]:
            world.hold(digest, NOBODY, PINNED_MS)
        else:
            world.hold(digest, world.make_repository(repository), given["now_ms"])
    return outcome, said["outcome"]


def cancel_upload(world: World, given: Arguments, said: Any) -> Judged:
    """The intent goes, its names to the trash."""
    row = world.state.intents.pop(given["upload"], None)
    if row is None:
        return None, said
    world.trash(row.generation, [*row.names, *given["names"]], given["now_ms"])
    return row.generation, said and said["generation"]


def expire_upload(world: World, given: Arguments, said: Any) -> Judged:
    """The same, if nobody renewed it since."""
    row = world.state.intents.get(given["upload"])
    if row is None or row.renewed_at_ms >= given["before_ms"]:
        return None, said
    return cancel_upload(world, {**given, "names": []}, said)


def freeze(world: World, given: Arguments, said: Any) -> Judged:
    """The index may be an older copy: of what it has, nobody knows whether it is still there."""
    del given
    world.state.is_frozen = True
    return None, said


def close_intent(world: World, given: Arguments, said: Any) -> Judged:
    """The intent of a checkpoint goes, and its bytes stay."""
    world.state.intents.pop(given["upload"], None)
    return None, said


def touch_blob(world: World, given: Arguments, said: Any) -> Judged:
    """HEAD: yes only of what is visible, and every yes is recorded, unless an edge stands behind it."""
    digest, repository = world.canonical(given["digest"]), world.find_repository(given["repository"])
    if digest is None or not world.is_visible(digest, repository, given["now_ms"], given["terms"]):
        return None, said
    assert repository is not None
    row, hold = world.state.blobs[digest], world.state.holds.get(digest, {}).get(repository)
    is_by_edge = world.has_edge_from(digest, repository)
    is_old = hold is not None and given["now_ms"] - hold.renewed_at_ms > int(given["terms"]["renew_s"] * 1000)
    if row.state == CONDEMNED or (is_old and not is_by_edge):
        _promise(world, digest, repository, given["now_ms"])
    return row.generation, said and said["generation"]


def mount_blob(world: World, given: Arguments, said: Any) -> Judged:
    """Promised to the target, if the source sees it."""
    digest, source = world.canonical(given["digest"]), world.find_repository(given["source"])
    if digest is None or not world.is_visible(digest, source, given["now_ms"], given["terms"]):
        return None, said
    _promise(world, digest, world.make_repository(given["target"]), given["now_ms"])
    return world.state.blobs[digest].generation, said and said["generation"]


def _promise(world: World, digest: str, repository: int, now_ms: int) -> None:
    if world.state.blobs[digest].state == CONDEMNED:
        world.revive(digest)
    world.hold(digest, repository, now_ms)


def delete_blob(world: World, given: Arguments, said: Any) -> Judged:
    """Refused while a manifest of the repository refers to it."""
    digest, repository = world.canonical(given["digest"]), world.find_repository(given["repository"])
    if digest is None or not world.is_visible(digest, repository, given["now_ms"], given["terms"]):
        raise Refused("BlobUnknown")
    assert repository is not None
    if world.has_edge_from(digest, repository):
        raise Refused("StillReferenced")
    world.let_go(digest, repository)
    return None, said


def pin_blob(world: World, given: Arguments, said: Any) -> Judged:
    """A hold of nobody that does not lapse."""
    del said
    digest = world.canonical(given["digest"])
    row = world.blob(digest)
    if digest is None or row is None or row.state == SUSPECT:
        raise Refused("BlobUnknown")
    _promise(world, digest, NOBODY, PINNED_MS)
    return None, None


def unpin_blob(world: World, given: Arguments, said: Any) -> Judged:
    """The end of a pin."""
    del said
    digest = world.canonical(given["digest"])
    hold = world.state.holds.get(digest or "", {}).get(NOBODY)
    if digest is None or hold is None or hold.renewed_at_ms != PINNED_MS:
        raise Refused("BlobUnknown")
    world.let_go(digest, NOBODY)
    return None, None


GUARDS = {
    guard.__name__: guard
    for guard in (
        freeze, start_upload, renew_upload, commit_blob, cancel_upload, expire_upload, close_intent,
        touch_blob, mount_blob, delete_blob, pin_blob, unpin_blob,
    )
}  # fmt: skip
