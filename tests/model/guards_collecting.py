"""The guards of the collector, of reconciling and of rebuilding."""

from __future__ import annotations

from typing import Any

from tests.model.guards_pushing import Arguments, Judged
from tests.model.guards_references import plain_edges, record_key
from tests.model.state import CONDEMNED, PRESENT, RETIRING, SUSPECT, WAITING, BlobRow, TrashRow
from tests.model.world import NOBODY, PINNED_MS, World, term_ms


def drop_manifests(world: World, given: Arguments, said: Any) -> Judged:
    """Records that nothing outside their batch keeps: no tag, no parent, no living subject, their grace over."""
    wanted: dict[str, dict[str, Any]] = {}
    for drop in given["drops"]:
        key = record_key(world, drop["key"])
        if key is None or world.tags[key]:
            continue
        if given["judged_at_ms"] >= world.state.records[key].lost_at_ms + term_ms(given["terms"]):
            wanted[key] = drop
    while kept := [key for key, drop in wanted.items() if _is_kept(world, key, drop["reason"], set(wanted))]:
        for key in kept:
            del wanted[key]
    for key in wanted:
        world.remove_record(key, given["now_ms"])
    return [drop["key"] for drop in wanted.values()], [drop["key"] for drop in said["drops"]]


def _is_kept(world: World, key: str, reason: str, going: set[str]) -> bool:
    if any(parent not in going for parent in world.index_parents(key)):
        return True
    subject = world.subject_key(key)
    if subject is not None:
        return subject not in going
    return reason == "subject-gone" and not world.state.records[key].is_subject_gone


def condemn(world: World, given: Arguments, said: Any) -> Judged:
    """No edge, and every hold lapsed. A suspect is never condemned: it goes, so that nothing revives it."""
    going: list[str] = []
    for digest in given["digests"]:
        row = world.blob(digest)
        lapsed, is_held = world.split_holds(digest, given["judged_at_ms"], given["terms"])
        if row is None or is_held or world.has_edge(digest):
            for number in lapsed:
                world.drop_hold(digest, number)
        elif row.state == PRESENT:
            row.state = CONDEMNED
            _wait(world, digest, row, given["not_before_ms"], given["run"])
            for number in lapsed:
                world.state.holds[digest][number].is_in_order = False
            going.append(digest)
        elif row.state == SUSPECT:
            world.remove_blob(digest)
            _wait(world, digest, row, given["judged_at_ms"], given["run"])
            going.append(digest)
    return going, [blob["digest"] for blob in said["blobs"]]


def _wait(world: World, digest: str, row: BlobRow, not_before_ms: int, run: str) -> None:
    world.put_trash(row.generation, TrashRow(digest, WAITING, not_before_ms, list(row.names), run))


def sweep_holds(world: World, given: Arguments, said: Any) -> Judged:
    """Lapsed holds of blobs that an edge or another hold keeps, oldest first."""
    after = given["after"] or ""
    start = (int(after[:16], 16), after[16:32], int(after[80:88], 16)) if after else (-1, "", 0)
    due = sorted(
        (row.renewed_at_ms, digest, number)
        for digest, rows in world.state.holds.items()
        for number, row in rows.items()
        if row.is_in_order and row.renewed_at_ms + term_ms(given["terms"]) <= given["now_ms"]
    )
    looked_at = [place for place in due if place > start][: given["limit"]]
    for _, digest, _ in looked_at:
        lapsed, is_held = world.split_holds(digest, given["now_ms"], given["terms"])
        if is_held or world.has_edge(digest):
            for number in lapsed:
                world.drop_hold(digest, number)
    return len(looked_at) == given["limit"], said is not None


def retire(world: World, given: Arguments, said: Any) -> Judged:
    """Due, and condemned with this generation still: without edge and unlapsed hold its row goes, else it is revived."""
    retiring: list[str] = []
    revived: list[str] = []
    for generation in given["generations"]:
        row = world.state.trash.get(generation)
        if row is not None and (row.state == RETIRING or given["now_ms"] >= row.not_before_ms):
            _retire_one(world, generation, given, retiring, revived)
    return (retiring, revived), ([each["generation"] for each in said["retiring"]], said["revived"])


def _retire_one(world: World, generation: str, given: Arguments, retiring: list[str], revived: list[str]) -> None:
    row = world.state.trash[generation]
    blob = world.blob(row.digest)
    if row.state == WAITING and blob is not None and row.digest is not None and blob.generation == generation:
        if blob.state != CONDEMNED:
            del world.state.trash[generation]
            return
        if world.has_edge(row.digest) or world.split_holds(row.digest, given["now_ms"], given["terms"])[1]:
            world.revive(row.digest)
            revived.append(row.digest)
            return
        world.remove_blob(row.digest)
    row.state = RETIRING
    world.note_retired(generation)
    retiring.append(generation)


def forget_trash(world: World, given: Arguments, said: Any) -> Judged:
    """Only of what is retiring, and only when every name is gone."""
    removed: list[str] = []
    for each in given["trash"]:
        row = world.state.trash.get(each["generation"])
        if row is not None and row.state == RETIRING and set(row.names) <= set(each["names"]):
            del world.state.trash[each["generation"]]
            removed.append(each["generation"])
    return removed, [each["generation"] for each in said]


def undo_condemned(world: World, given: Arguments, said: Any) -> Judged:
    """What a run condemned is revived, its holds renewed."""
    revived: list[str] = []
    late: list[str] = []
    for generation, row in sorted(world.state.trash.items()):
        if row.run != given["run"] or row.digest is None:
            continue
        blob = world.blob(row.digest)
        if blob is None or blob.state != CONDEMNED or blob.generation != generation:
            late.append(row.digest)
            continue
        world.revive(row.digest)
        for number in list(world.state.holds.get(row.digest, {})):
            world.hold(row.digest, number, given["now_ms"])
        revived.append(row.digest)
    return (sorted(revived), sorted(late)), (sorted(said["blobs"]), sorted(said["too_late"]))


def trash_orphans(world: World, given: Arguments, said: Any) -> Judged:
    """A name that was minted here, and that no blob, intent or trash row knows."""
    orphans = [seen for seen in given["found"] if _is_orphan(world, seen)]
    for seen in orphans:
        world.trash(seen["generation"], [seen["key"]], given["now_ms"])
    return len(orphans), said


def _is_orphan(world: World, seen: dict[str, Any]) -> bool:
    generation, blob = seen["generation"], world.blob(seen["digest"])
    if blob is not None and blob.generation == generation:
        return False
    if any(intent.generation == generation for intent in world.state.intents.values()):
        return False
    trash = world.state.trash.get(generation)
    if trash is not None and (trash.digest is not None or seen["key"] in trash.names):
        return False
    epoch, counter = generation.split("-")
    return int(counter, 16) <= world.state.epochs.get(epoch, -1)


def suspect_blob(world: World, given: Arguments, said: Any) -> Judged:
    """Present, and the same generation that was looked at."""
    row = world.blob(given["digest"])
    if row is None or row.state != PRESENT or row.generation != given["generation"]:
        return False, said
    row.state = SUSPECT
    return True, said


# Rebuilding: what was found is taken over as it is


def restore_blobs(world: World, given: Arguments, said: Any) -> Judged:
    """Present, and held from now on."""
    for blob in given["blobs"]:
        world.state.blobs[blob["digest"]] = BlobRow(PRESENT, blob["generation"], list(blob["names"]))
        world.hold(blob["digest"], NOBODY, given["now_ms"])
    return None, said


def restore_trash(world: World, given: Arguments, said: Any) -> Judged:
    """Copies that no digest needs."""
    for each in given["trash"]:
        before = world.state.trash.get(each["generation"])
        names = list(dict.fromkeys([*(before.names if before else ()), *each["names"]]))
        row = TrashRow(each["digest"], each["state"], each["not_before_ms"], names, each["run"])
        world.state.trash[each["generation"]] = row
    return None, said


def restore_epochs(world: World, given: Arguments, said: Any) -> Judged:
    """Minted by processes before."""
    for generation in given["high"]:
        epoch, counter = generation.split("-")
        world.state.epochs[epoch] = max(world.state.epochs.get(epoch, 0), int(counter, 16))
    return None, said


def restore_manifest(world: World, given: Arguments, said: Any) -> Judged:
    """A record with its edges; children whose bytes are lost are suspect."""
    manifest = given["manifest"]
    edges, lost = plain_edges(world, manifest)
    number = world.make_repository(given["repository"])
    kinds = {digest: "m" if kind == "manifest" else "b" for digest, kind in manifest["references"]}
    for digest in lost:
        if ":" not in digest:
            world.state.blobs[digest] = _nowhere(digest)
            edges[digest] = kinds[digest]
    key = f"{number}/{manifest['digest']}"
    world.insert_record(key, manifest, edges, given["now_ms"])
    world.state.records[key].is_subject_gone = given["is_subject_gone"]
    return lost, said


def _nowhere(digest: str) -> BlobRow:
    generation = f"0-{int(digest, 16):x}"
    return BlobRow(SUSPECT, generation, [f"blob {digest} {generation}"])


def restore_tag(world: World, given: Arguments, said: Any) -> Judged:
    """As it was."""
    key = record_key(world, given["key"])
    assert key is not None, given
    world.set_tag(key, given["tag"], given["updated_at_ms"])
    return None, said


def restore_pin(world: World, given: Arguments, said: Any) -> Judged:
    """As it was."""
    world.hold(given["digest"], NOBODY, PINNED_MS)
    return None, said


def restore_alias(world: World, given: Arguments, said: Any) -> Judged:
    """As it was; of a blob that is lost, with a suspect row."""
    world.state.blobs.setdefault(given["digest"], _nowhere(given["digest"]))
    world.add_aliases(given["digest"], [given["alias"]])
    return None, said


def finish_rebuild(world: World, given: Arguments, said: Any) -> Judged:
    """Nothing that the guards look at."""
    del world, given
    return None, said


GUARDS = {
    guard.__name__: guard
    for guard in (
        drop_manifests, condemn, sweep_holds, retire, forget_trash, undo_condemned, trash_orphans, suspect_blob,
        restore_blobs, restore_trash, restore_epochs, restore_manifest, restore_tag, restore_pin, restore_alias,
        finish_rebuild,
    )
}  # fmt: skip
