"""What a flow left, looked at in a new process: is it whole, was nothing lost, can it be done again, does no garbage stay?"""

from __future__ import annotations

from typing import Any

from blobstore.errors import StoreFrozen, StoreUnknown
from blobstore.testing.invariants import find_broken, find_garbage
from tests.faults.children import Tell
from tests.faults.flows import REFERENCES, Flow
from tests.faults.stage import BEYOND_EACH_GRACE_MS, ONLY_ON_REQUEST, Stage, View, look, unreadable
from tests.faults.without_threads import do_at_once, draw_the_same


async def judge(stage: Stage, flow: Flow, expected: dict[str, Any], is_done: bool, tell: Tell) -> None:
    """Tell what is wrong with what a flow left that was tried; `is_done` if it answered success."""
    do_at_once()
    draw_the_same("after it")
    problems: list[str] = []
    has_happened = is_done
    if await _opens(stage, flow, is_done=is_done):
        problems += [f"left broken: {each}" for each in await find_broken(stage.store)]
        view = await look(stage.store, stage.clock.now_ms())
        has_happened = view == expected["after"]
        problems += _unexpected(view, flow, expected, is_done=is_done)
        await stage.close()
    again = await do_again(stage, flow, has_happened=has_happened)
    if again not in (expected["after"], expected["again"]):
        problems.append(f"done again it has not the same effect: {_difference(expected['after'], again)}")
    final = await collect(stage, expected["collections"] + (flow.is_finished_by_a_collection and not is_done))
    problems += [f"garbage: {each}" for each in await find_garbage(stage.store)]
    if final != expected["final"]:
        problems.append(f"after two collections something else is left: {_difference(expected['final'], final)}")
    await stage.close()
    tell(problems=problems, judged=True)


async def _opens(stage: Stage, flow: Flow, *, is_done: bool) -> bool:
    """Whether the store opens; only one that is being made or rebuilt may refuse."""
    try:
        await stage.open()
    except StoreUnknown:
        if not flow.creates or is_done:
            raise
        return False
    except StoreFrozen:
        if flow.name != "rebuild" or is_done:
            raise
        return False
    return True


async def do_again(stage: Stage, flow: Flow, *, has_happened: bool) -> View:
    """The view after the flow was simply repeated; leaves the store open."""
    if not flow.opens:
        await stage.open()
    try:
        await flow.act(stage)
    except flow.already:
        assert has_happened, "it says that it had happened already, and it had not"
    if not stage.is_open:
        await stage.open()
    problems = await find_broken(stage.store)
    assert problems == [], problems
    return await look(stage.store, stage.clock.now_ms())


async def collect(stage: Stage, times: int) -> View:
    """The view after as many collections beyond each grace as it takes where nothing failed; all that is left can be read."""
    assert (await stage.store.index.guards()).frozen is None
    for _ in range(times):
        stage.clock.advance(BEYOND_EACH_GRACE_MS)
        await stage.bench.collector(ONLY_ON_REQUEST).run()
    problems = [*await find_broken(stage.store), *await unreadable(stage.store)]
    assert problems == [], problems
    return await look(stage.store, stage.clock.now_ms())


def _unexpected(view: View, flow: Flow, expected: dict[str, Any], *, is_done: bool) -> list[str]:
    before, after = expected.get("before") or {section: [] for section in view}, expected["after"]
    if view == after:
        return []
    if is_done:
        return [f"success was answered, and it is not there: {_difference(after, view)}"]
    if flow.is_one_step:
        return [] if view == before else [f"half of it happened: {_difference(before, view)}"]
    return [
        f"{section} are neither as before nor as after nor between: {_difference(before, view)}"
        for section in REFERENCES
        if not set(before[section]) & set(after[section])
        <= set(view[section])
        <= set(before[section]) | set(after[section])
    ]


def _difference(wanted: View, found: View) -> str:
    lines = []
    for section in wanted:
        lines += [f"-{section} {each}" for each in wanted[section] if each not in found[section]]
        lines += [f"+{section} {each}" for each in found[section] if each not in wanted[section]]
    return "; ".join(lines) or "nothing"
