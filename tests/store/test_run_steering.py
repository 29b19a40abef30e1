"""Pause, resume, breakpoints and commands of runs: under the row's lock, each told to the orchestrator."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest

from domain.events import EventType
from domain.lifecycle import MemberStatus, RunStatus
from domain.names import DEFAULT_PROJECT, ProjectId, RunId
from domain.plan import BadRun
from domain.run import EdgePlan, FanPlan
from domain.run_spec import RunBreakpoints, RunCommand
from store import run_log, run_steering
from store.engine import Database
from store.run_steering import SteeredRun
from store.steering import Refusal
from tests.store.runs import DIAMOND, Orchestrator, assert_folds, create_run, intents_of, log_of, members_of, row_of

TASK = {"command": ["true"], "provider": "external"}


async def pause(
    database: Database, run: RunId, by: str = "t", project: ProjectId = DEFAULT_PROJECT
) -> SteeredRun | None:
    """Pause as the API does."""
    async with database.begin("test") as connection:
        return await run_steering.pause(connection, project, run, reason="why", token=by)


async def resume(database: Database, run: RunId, by: str = "t") -> SteeredRun:
    """Resume as the API does."""
    async with database.begin("test") as connection:
        found = await run_steering.resume(connection, DEFAULT_PROJECT, run, token=by, now=datetime.now(UTC))
    assert found is not None
    return found


async def command(database: Database, run: RunId, **asked: Any) -> SteeredRun:
    """Send a command as the API does."""
    async with database.begin("test") as connection:
        found = await run_steering.command(
            connection, DEFAULT_PROJECT, run, RunCommand.model_validate(asked), now=datetime.now(UTC)
        )
    assert found is not None
    return found


async def break_at(database: Database, run: RunId, **breakpoints: Any) -> SteeredRun:
    """Set breakpoints as the API does."""
    async with database.begin("test") as connection:
        found = await run_steering.set_breakpoints(
            connection, DEFAULT_PROJECT, run, RunBreakpoints.model_validate(breakpoints)
        )
    assert found is not None
    return found


async def held(database: Database, body: dict[str, Any] | None = None) -> tuple[RunId, Orchestrator]:
    """Give a run that is held by the token `t`, and has begun nothing."""
    run = await create_run(database, body)
    orchestrator = Orchestrator(database, run)
    await orchestrator.begin()
    await orchestrator.hold("t")
    return run, orchestrator


async def test_a_pause_is_in_the_row_until_the_orchestrator_holds(database: Database) -> None:
    """Token and reason at once, `paused` by the flush; the orchestrator is told, and its answer has the token."""
    run = await create_run(database)
    orchestrator = Orchestrator(database, run)
    await orchestrator.begin()
    steered = await pause(database, run)
    assert steered is not None
    assert {name: steered.row[name] for name in ("paused", "pause_token", "pause_reason")} == {
        "paused": False,
        "pause_token": "t",
        "pause_reason": "why",
    }
    assert await intents_of(database, run) == [("steer", 1)]
    answer = await orchestrator.flush()
    assert (answer.pause, answer.pause_reason) == ("t", "why")
    await orchestrator.flush(orchestrator.event(EventType.RUN_PAUSED, token="t", reason="why"))
    assert (await assert_folds(database, run))["paused"]


async def test_a_pause_that_is_repeated_has_the_first_token(database: Database) -> None:
    """The same token and reason, nothing written, nobody told again."""
    run = await create_run(database)
    await pause(database, run, "first")
    before = await intents_of(database, run)
    again = await pause(database, run, "second")
    assert again is not None
    assert (again.repeated, again.row["pause_token"]) == (True, "first")
    assert await intents_of(database, run) == before


async def test_a_resume_ends_a_hold_by_its_token(database: Database) -> None:
    """Row and log say so; another token, and a second resume, change nothing."""
    run, _ = await held(database)
    assert (await resume(database, run, "other")).refused is Refusal.STALE_TOKEN
    assert (await row_of(database, run))["paused"]
    assert (await resume(database, run)).refused is None
    row = await assert_folds(database, run)
    assert (row["paused"], row["pause_token"], row["pause_reason"]) == (False, None, None)
    assert (await log_of(database, run))[-1].type is EventType.RUN_RESUMED
    assert (await resume(database, run)).refused is Refusal.NOT_PAUSED


async def test_a_pause_that_was_taken_back_is_not_written_late(database: Database) -> None:
    """Who resumes before the orchestrator held has the last word: its `run.paused` is not taken."""
    run = await create_run(database)
    orchestrator = Orchestrator(database, run)
    await orchestrator.begin()
    await pause(database, run)
    assert (await resume(database, run)).refused is None
    await orchestrator.flush(orchestrator.event(EventType.RUN_PAUSED, token="t"))
    assert not (await assert_folds(database, run))["paused"]


async def test_breakpoints_are_checked_and_replaced(database: Database) -> None:
    """Unknown names are refused, all of them named, and nothing changes; the orchestrator's answer brings others."""
    run = await create_run(database)
    orchestrator = Orchestrator(database, run)
    await orchestrator.begin()
    with pytest.raises(BadRun, match="gone, lost") as bad:
        await break_at(database, run, before=["a", "gone", "lost"])
    assert (bad.value.code, bad.value.field) == ("unknown_member", "before")
    assert (await row_of(database, run))["breakpoints"] is None
    wanted = {"before": ["a"], "after": ["d"], "each_step": False}
    assert (await break_at(database, run, **wanted)).row["breakpoints"] == wanted
    assert await intents_of(database, run) == [("steer", 1)]
    assert (await orchestrator.flush()).breakpoints == RunBreakpoints.model_validate(wanted)
    assert (await break_at(database, run, **wanted)).repeated
    assert (await break_at(database, run)).row["breakpoints"] is None


@pytest.mark.parametrize("how", ["pause", "resume", "breakpoints", "command"])
async def test_a_run_that_has_ended_is_not_steered(database: Database, how: str) -> None:
    """already_ended (for resume: not_paused), and nobody is told."""
    run = await create_run(database)
    orchestrator = Orchestrator(database, run)
    await orchestrator.fail()
    before = await intents_of(database, run)
    steering: dict[str, Callable[[], Awaitable[SteeredRun | None]]] = {
        "pause": partial(pause, database, run),
        "resume": partial(resume, database, run),
        "breakpoints": partial(break_at, database, run),
        "command": partial(command, database, run, skip=["a"]),
    }
    found = await steering[how]()
    assert found is not None
    assert found.refused is (Refusal.NOT_PAUSED if how == "resume" else Refusal.ALREADY_ENDED)
    assert await intents_of(database, run) == before


async def test_another_projects_run_is_not_there(database: Database) -> None:
    """None, as for an unknown one."""
    run = await create_run(database)
    assert await pause(database, run, project=ProjectId("other")) is None
    assert await pause(database, RunId("unknown")) is None


async def test_a_command_is_merged_and_numbered(database: Database) -> None:
    """Members and edges are rows, the plan is of what was added, by places over all members; the log says so."""
    run, orchestrator = await held(database)
    append = {
        "members": [{"name": "e", "task": TASK}, {"name": "f", "task": TASK, "fan_out": {"items_from": "e#/list"}}],
        "edges": [{"from": "d", "to": "e"}, {"from": "a", "to": "d"}],
    }
    first = await command(database, run, append=append)
    second = await command(database, run, skip=["b"])
    assert (first.command, second.command) == (1, 2)
    assert await members_of(database, run) == dict.fromkeys("abcdef", "waiting")
    answer = await orchestrator.flush()
    plan = answer.commands[0].plan
    assert [each.n for each in answer.commands] == [1, 2]
    assert plan.names == ["e", "f"]
    assert plan.edges == [
        EdgePlan(source=3, target=4),
        EdgePlan(source=0, target=3),
        EdgePlan(source=4, target=5),  # implied by `items_from`
    ]
    assert plan.fans == {1: FanPlan()}
    assert len((await row_of(database, run))["edges"]) == len(DIAMOND["edges"]) + 3
    events = [event for event in await log_of(database, run) if event.type is EventType.RUN_COMMANDED]
    assert [(event.data["n"], event.data["source"]) for event in events] == [(1, "api"), (2, "api")]
    assert await intents_of(database, run) == [("steer", 1)] * 3
    await assert_folds(database, run)


LATE = {"members": [{"name": "e", "task": TASK}], "edges": [{"from": "e", "to": "a"}]}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "cycle": ({"append": {"edges": [{"from": "d", "to": "b"}]}}, "cycle"),
    "duplicate": ({"append": {"members": [{"name": "a", "task": TASK}]}}, "duplicate_member"),
    "unknown": ({"append": {"edges": [{"from": "a", "to": "gone"}]}}, "unknown_member"),
    "self-loop": ({"append": {"edges": [{"from": "b", "to": "b"}]}}, "self_loop"),
    "skip of what has ended": ({"skip": ["a"]}, "not_waiting"),
    "skip of nobody": ({"skip": ["gone"]}, "unknown_member"),
    "an upstream for what has ended": ({"append": LATE}, "not_waiting"),
    "replace without supersteps": ({"replace": ["b"]}, "not_superstep"),
}


@pytest.mark.parametrize("case", BAD)
async def test_a_bad_command_changes_nothing(database: Database, case: str) -> None:
    """It is named; graph, commands and log are as before, and nobody is told."""
    run = await create_run(database)
    orchestrator = Orchestrator(database, run)
    await orchestrator.begin()
    await orchestrator.run_through("a")
    await orchestrator.hold("t")
    before = await row_of(database, run), await members_of(database, run), await intents_of(database, run)
    asked, code = BAD[case]
    with pytest.raises(BadRun) as bad:
        await command(database, run, **asked)
    assert bad.value.code == code
    assert (await row_of(database, run), await members_of(database, run), await intents_of(database, run)) == before


async def test_a_command_needs_a_hold(database: Database) -> None:
    """not_paused while it is only asked for, and after it."""
    run = await create_run(database)
    orchestrator = Orchestrator(database, run)
    await orchestrator.begin()
    await pause(database, run)
    assert (await command(database, run, skip=["b"])).refused is Refusal.NOT_PAUSED
    await orchestrator.flush(orchestrator.event(EventType.RUN_PAUSED, token="t"))
    await resume(database, run)
    assert (await command(database, run, skip=["b"])).refused is Refusal.NOT_PAUSED


async def test_replace_names_the_next_superstep(database: Database) -> None:
    """In a run of supersteps it is taken in."""
    run, orchestrator = await held(database, DIAMOND | {"mode": "superstep"})
    assert (await command(database, run, replace=["d"])).command == 1
    assert (await orchestrator.flush()).commands[0].command.replace == ["d"]


async def test_commands_at_once_are_numbered_one_after_the_other(database: Database) -> None:
    """Ten that append: 1 to 10, places without a gap, all edges kept."""
    run, _ = await held(database)
    asked = [
        {"append": {"members": [{"name": f"n{n}", "task": TASK}], "edges": [{"from": "d", "to": f"n{n}"}]}}
        for n in range(10)
    ]
    numbers = [steered.command for steered in await asyncio.gather(*(command(database, run, **each) for each in asked))]
    assert sorted(number or 0 for number in numbers) == list(range(1, 11))
    assert len(await members_of(database, run)) == 14
    assert len((await row_of(database, run))["edges"]) == len(DIAMOND["edges"]) + 10


async def test_of_two_commands_at_once_that_contradict_one_is_refused(database: Database) -> None:
    """Each alone is good, both together make a cycle: one is in the graph, the other is told so."""
    run, _ = await held(database)
    edges = ({"from": "b", "to": "c"}, {"from": "c", "to": "b"})
    answers = await asyncio.gather(
        *(command(database, run, append={"edges": [edge]}) for edge in edges), return_exceptions=True
    )
    refused = [answer for answer in answers if isinstance(answer, BadRun)]
    assert [bad.code for bad in refused] == ["cycle"]
    assert len((await row_of(database, run))["edges"]) == len(DIAMOND["edges"]) + 1


async def test_a_command_and_an_end_at_once(database: Database) -> None:
    """Either the command comes first, or it is refused because the member has ended; rows and log agree."""
    run, orchestrator = await held(database)
    batch = orchestrator.batch(
        orchestrator.event(EventType.RUN_MEMBER_FINISHED, member="d", outcome=MemberStatus.SKIPPED)
    )

    async def end() -> None:
        async with database.commit("test") as connection:
            await run_log.flush(connection, batch)

    ended, commanded = await asyncio.gather(end(), command(database, run, skip=["d"]), return_exceptions=True)
    assert ended is None
    assert isinstance(commanded, SteeredRun | BadRun)
    assert (await members_of(database, run))["d"] == "skipped"
    await assert_folds(database, run)
    await orchestrator.finish(RunStatus.CANCELLED)
