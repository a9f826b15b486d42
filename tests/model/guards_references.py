"""The guards of manifests, tags and repositories."""

from __future__ import annotations

from typing import Any

from tests.model.guards_pushing import Arguments, Judged, settle
from tests.model.state import CONDEMNED, SUSPECT
from tests.model.world import Refused, World, digest_of


def put_manifest(world: World, given: Arguments, said: Any) -> Judged:
    """Every child is looked at anew: visible here and present, or condemned and revived; a manifest needs its record."""
    manifest, replays = given["manifest"], {each["digest"]: each for each in given["replays"]}
    number = world.find_repository(given["intent"]["repository"])
    edges, missing, needed = _check_children(world, given, manifest, replays, number)
    heard = (said["outcome"], sorted(said["missing"]), sorted(said["needed"]))
    if missing:
        _refuse(world, given)
        return ("interrupted", sorted(missing), []), heard
    if needed:
        return ("not published", [], sorted(needed)), heard
    outcome = settle(world, given)
    if outcome in ("stored", "duplicate", "revived"):
        number = world.make_repository(given["intent"]["repository"])
        world.add_aliases(manifest["digest"], given["content"]["aliases"])
        _insert(world, number, {manifest["digest"]: manifest, **replays}, edges, given["now_ms"])
        for tag in given["tags"]:
            world.set_tag(f"{number}/{manifest['digest']}", tag, given["now_ms"])
    return (outcome, [], []), heard


def _check_children(
    world: World, given: Arguments, manifest: dict[str, Any], replays: dict[str, Any], number: int | None
) -> tuple[dict[str, dict[str, str]], list[str], list[str]]:
    """The edges of each record to insert, what is missing, and which children need to be put as well."""
    edges: dict[str, dict[str, str]] = {manifest["digest"]: {}}
    missing: list[str] = []
    needed: list[str] = []
    waiting = [manifest]
    while waiting:
        parent = waiting.pop()
        found: list[str] = []
        for digest, kind in parent["references"]:
            raw = world.canonical(digest)
            if raw is None or not world.is_visible(raw, number, given["now_ms"], given["terms"]):
                missing += [digest] if kind != "foreign" else []
                continue
            edges[parent["digest"]][raw] = "m" if kind == "manifest" else "b"
            if kind == "manifest" and f"{number}/{raw}" not in world.state.records:
                found.append(raw)
        for raw in found:
            if raw in edges:
                continue
            if raw in replays:
                edges[raw] = {}
                waiting.append(replays[raw])
            else:
                needed.append(raw)
    return edges, missing, needed


def _refuse(world: World, given: Arguments) -> None:
    """The manifest's own bytes are trash."""
    intent = given["intent"]
    row = world.state.intents.pop(intent["upload"], None)
    if row is not None or given["names"]:
        world.trash(intent["generation"], [*intent["names"], *given["names"]], given["now_ms"])


def _insert(
    world: World, number: int, manifests: dict[str, Any], edges: dict[str, dict[str, str]], now_ms: int
) -> None:
    for child in {child for children in edges.values() for child in children}:
        if world.state.blobs[child].state == CONDEMNED:
            world.revive(child)
    for digest, children in reversed(edges.items()):
        world.insert_record(f"{number}/{digest}", manifests[digest], children, now_ms)


def touch_manifest(world: World, given: Arguments, said: Any) -> Judged:
    """The grace of a manifest that nothing holds is renewed."""
    key = record_key(world, given["key"])
    if key is None:
        return False, said
    age_ms = given["now_ms"] - world.state.records[key].lost_at_ms
    if world.is_loose(key) and age_ms > int(given["terms"]["renew_s"] * 1000):
        world.lose(key, given["now_ms"])
    return True, said


def put_tag(world: World, given: Arguments, said: Any) -> Judged:
    """A tag names a record that is here."""
    del said
    key = record_key(world, given["key"])
    if key is None:
        raise Refused("ManifestUnknown")
    world.set_tag(key, given["tag"], given["now_ms"])
    return None, None


def delete_tag(world: World, given: Arguments, said: Any) -> Judged:
    """A tag goes; what it named lost it."""
    del said
    place = f"{world.find_repository(given['repository'])}/{given['tag']}"
    if place not in world.state.tags:
        raise Refused("TagUnknown")
    world.untag(place, given["now_ms"])
    return None, None


def delete_manifest(world: World, given: Arguments, said: Any) -> Judged:
    """Refused while an image index of the repository refers to it."""
    del said
    key = record_key(world, given["key"])
    if key is None:
        raise Refused("ManifestUnknown")
    if world.index_parents(key):
        raise Refused("StillReferenced")
    world.remove_record(key, given["now_ms"])
    return None, None


def hide_repository(world: World, given: Arguments, said: Any) -> Judged:
    """Its name is free at once."""
    del said
    number = world.find_repository(given["repository"])
    if number is None or not _records_of(world, number):
        raise Refused("RepositoryUnknown")
    del world.state.repositories[given["repository"]]
    world.state.hidden[number] = given["repository"]
    return None, None


def continue_removals(world: World, given: Arguments, said: Any) -> Judged:
    """A hidden repository is taken apart, the oldest first."""
    for number in sorted(world.state.hidden):
        keys = sorted(_records_of(world, number), key=digest_of)[: given["limit"]]
        for key in keys:
            world.remove_record(key, given["now_ms"])
        if len(keys) < given["limit"]:
            del world.state.hidden[number]
        return True, said
    return False, said


def reinstate_manifest(world: World, given: Arguments, said: Any) -> Judged:
    """A dropped record is put back, if all it needs is still there; what is condemned comes back with it."""
    manifest, number = given["manifest"], world.make_repository(given["repository"])
    edges, lost = plain_edges(world, manifest)
    rows = [world.blob(raw) for raw in (manifest["digest"], *edges)]
    is_record_gone = any(kind == "m" and f"{number}/{raw}" not in world.state.records for raw, kind in edges.items())
    if lost or is_record_gone or any(row is None or row.state == SUSPECT for row in rows):
        return False, said is not None
    for raw in (manifest["digest"], *edges):
        if world.state.blobs[raw].state == CONDEMNED:
            world.revive(raw)
    world.insert_record(f"{number}/{manifest['digest']}", manifest, edges, given["now_ms"])
    return True, said is not None


def plain_edges(world: World, manifest: dict[str, Any]) -> tuple[dict[str, str], list[str]]:
    """The children that have a row, by kind, and those that have none, whoever sees them."""
    edges: dict[str, str] = {}
    lost: list[str] = []
    for digest, kind in manifest["references"]:
        raw = world.canonical(digest)
        if raw is not None and world.blob(raw) is not None:
            edges[raw] = "m" if kind == "manifest" else "b"
        elif kind != "foreign":
            lost.append(digest)
    return edges, lost


def _records_of(world: World, number: int) -> list[str]:
    return [key for key in world.state.records if key.startswith(f"{number}/")]


def record_key(world: World, key: dict[str, str]) -> str | None:
    """The key of a record that is here."""
    number, digest = world.find_repository(key["repository"]), world.canonical(key["digest"])
    found = f"{number}/{digest}"
    return found if found in world.state.records else None


GUARDS = {
    guard.__name__: guard
    for guard in (
        put_manifest, touch_manifest, put_tag, delete_tag, delete_manifest, hide_repository, continue_removals,
        reinstate_manifest,
    )
}  # fmt: skip
