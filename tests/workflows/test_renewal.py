"""A long life: an attempt whose history has become long continues as new, and nobody notices."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final

import pytest
from temporalio.api.enums.v1 import EventType as HistoryEvent
from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.client import WorkflowExecutionDescription, WorkflowHistory

from activities.failures import FailureInterceptor
from domain.events import EventType
from domain.lifecycle import Step
from domain.messages import AgentExit, Flush, Followup
from domain.names import DEFAULT_PROJECT, SignalName, UpdateName
from domain.policy import Policy
from domain.runner import RunnerInput
from domain.spec import TaskSpec
from domain.versions import BASE_BITS
from store import mirror
from tests.workflows.scenes import EXTERNAL_WAITS, READY, external, scene
from tests.workflows.stage import Running, Stage
from tests.workflows.test_fencing import AfterCommit, mortal
from tests.workflows.test_followups import listening, say
from tests.workflows.test_mirror_faults import faulty
from tests.workflows.test_replay import replayed
from workflows.gateway import Sent

CAP: Final = 60
SHORT: Final = Policy.model_validate({"limits": {"history_events": CAP}})
HOUR: Final = timedelta(hours=1)


async def pad(task: Running, events: int = CAP) -> None:
    """Send what changes nothing, and makes the history longer."""
    await asyncio.gather(*(task.handle.signal(str(SignalName.NODE_READY)) for _ in range(events)))


async def renewed(task: Running, times: int = 1) -> list[WorkflowHistory]:
    """Wait until the attempt has continued as new so often; returns its runs."""
    async with asyncio.timeout(20):
        while len(runs := await task.runs()) <= times:  # noqa: ASYNC110 - histories have no event
            await asyncio.sleep(0.05)
    return runs


async def assert_whole(task: Running) -> list[WorkflowHistory]:
    """The log is unbroken, its versions went up, and every run replays; returns the runs."""
    runs = await task.runs()
    for run in runs:
        await replayed(run)
    closings = [run.events[-1].event_type for run in runs[:-1]]
    assert closings == [HistoryEvent.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW] * (len(runs) - 1)
    row, events = await task.row(), await task.events()
    assert row["version"] >> BASE_BITS == len(runs) - 1
    visits = [(event.step, event.data["visit"]) for event in events if event.type is EventType.STEP_STARTED]
    assert len(visits) == len(set(visits))
    assert [event.type for event in events].count(EventType.ATTEMPT_STARTED) == 1
    assert len(events) == len({(event.type, event.step, str(event.data), event.ts) for event in events})
    return runs


def attributes_of(described: WorkflowExecutionDescription) -> dict[str, Any]:
    """What operators filter by."""
    return {pair.key.name: pair.value for pair in described.typed_search_attributes}


@pytest.mark.campaign
async def test_a_conversation_of_days(skipping_stage: Stage) -> None:
    """200 turns over nine days, ten runs and more: turns, visits and numbers go on, and so does all that was set."""
    environment = skipping_stage.environment
    with environment.with_time_skipping_disabled():
        policy = Policy.model_validate({"limits": {"history_events": 150}})
        task = await external(skipping_stage, Step.AWAITING_FOLLOWUP, priority=2, policy=policy)
    first = await task.handle.describe()
    for turn in range(2, 202):
        assert await say(task, f"message {turn}") == turn
        await task.signal(SignalName.WORKSPACE_FINISHED, turn=turn, exit_code=0, result=turn)
        await listening(task, turn)
        if turn % 20 == 0:
            assert await environment.fast_forward(task.handle, 23 * HOUR)
    last = await task.handle.describe()
    details = (await task.handle.query("__temporal_workflow_metadata", result_type=WorkflowMetadata)).current_details
    await task.handle.execute_update(UpdateName.CLOSE)
    row = await task.end()
    assert (row["status"], row["result"], await task.holds()) == ("completed", 201, 0)
    runs = await assert_whole(task)
    assert len(runs) >= 10
    assert max(len(run.events) for run in runs) < 250
    events = await task.events()
    said = [(e.data["turn"], e.data["message"]) for e in events if e.type is EventType.AGENT_FOLLOWUP]
    assert said == [(turn, f"message {turn}") for turn in range(2, 202)]
    assert timedelta(days=9) < events[-1].ts - events[0].ts < timedelta(days=11)
    assert events[-1].data["duration_seconds"] > timedelta(days=9).total_seconds()
    # What the start had set is set still; the first look may have come before the first change was shown.
    kept = {"ProjectId": "default", "TaskStatus": "in_progress", "TaskStep": "running"}
    assert attributes_of(last).items() >= kept.items()
    assert details.startswith(f"{await first.static_summary()}\n\n**awaiting_followup**: waits until ")
    begun = [run.events[0].workflow_execution_started_event_attributes for run in runs]
    for attributes in begun:
        assert attributes.priority == begun[0].priority
        assert attributes.priority.priority_key == 2
        assert attributes.workflow_task_timeout == begun[0].workflow_task_timeout
        assert attributes.task_queue.name == begun[0].task_queue.name


async def test_a_flood_of_signals(stage: Stage) -> None:
    """Running still after 3,000 duplicates, in a history that is shorter than they are many; then completed."""
    task = await external(stage, Step.RUNNING)
    for _ in range(30):
        await asyncio.gather(*(task.signal(SignalName.WORKSPACE_READY, details={"n": number}) for number in range(100)))
    await task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0, result="through")
    row = await task.end()
    assert (row["status"], row["result"], (await task.story()).count("workspace.ready")) == ("completed", "through", 1)
    runs = await assert_whole(task)
    assert len(runs) > 1
    # None was lost on the way from one run to the next.
    kinds = [event.event_type for run in runs for event in run.events]
    assert kinds.count(HistoryEvent.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED) == 3001


WAITS = {
    Step.WORKSPACE_DISPATCH: "workspace_dispatch_timeout",
    Step.WORKSPACE_READY: "workspace_ready_timeout",
    Step.RUNNING: "cap_hard",
}


@pytest.mark.parametrize("step", EXTERNAL_WAITS)
async def test_an_interrupted_wait_goes_on_with_the_time_that_is_left(skipping_stage: Stage, step: Step) -> None:
    """Over after its budget, and not later, although two thirds of the way it continued as new."""
    environment, budgets = skipping_stage.environment, skipping_stage.policy.budgets
    budget = getattr(budgets, step)
    with environment.with_time_skipping_disabled():
        task = await external(skipping_stage, step, policy=SHORT)
    assert await environment.fast_forward(task.handle, budget * 2 / 3)
    await pad(task)
    await renewed(task)
    await environment.fast_forward(task.handle)
    row = await task.end()
    assert (row["error"] or {}).get("code") == WAITS.get(step)
    events = await task.events()
    began = next(event.ts for event in events if event.type is EventType.STEP_STARTED and event.step is step)
    assert budget <= events[-1].ts - began < budget + timedelta(minutes=5)
    warnings = [event.data["cap"] for event in events if event.type is EventType.TASK_CAP_WARNING]
    assert warnings == (["soft"] if step is Step.RUNNING else [])
    await assert_whole(task)


async def test_a_wait_for_a_slot_keeps_its_place(stage: Stage) -> None:
    """Granted in the order in which they came, though the first one has continued as new meanwhile."""
    async with stage.node(slots=0) as node:
        labels = {"node": node.id}
        tasks = []
        for _ in range(2):
            tasks.append(await stage.start(node_labels=labels, policy=SHORT))
            await tasks[-1].until("waiting_for_node_capacity")
        await pad(tasks[0])
        await renewed(tasks[0])
        await stage.set_slots(node, 1)
        await tasks[0].until("workspace_ready")
        assert (await tasks[1].row())["step"] == "waiting_for_node_capacity"
        for task in tasks:
            await task.until("workspace_ready")
            await task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
            assert (await task.end())["status"] == "completed"
            await assert_whole(task)
        assert await stage.used(node) == 0


async def test_not_while_an_activity_is_open(stage: Stage) -> None:
    """One run while the node looks after the agent, however long its history; the next one once nobody does."""
    async with scene(stage, Step.RUNNING, followup=True, policy=SHORT) as at:
        for _ in range(3):
            await pad(at.task)
        await at.task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
        await at.task.until("awaiting_followup")
        await pad(at.task)
        assert len(await at.task.runs()) == 1
        at.node.exits[1].set_result(AgentExit(turn=1, exit_code=0))
        await renewed(at.task)
        assert await say(at.task, "go on") == 2
        await at.task.until("running")
        await at.task.signal(SignalName.WORKSPACE_FINISHED, turn=2, exit_code=3)
        row = await at.task.end()
        # The last run's failure is the attempt's.
        assert (row["status"], row["error"]["context"]["exit_code"]) == ("failed", 3)
        await assert_whole(at.task)
        await at.assert_clean()


async def test_a_callback_that_is_committed_while_it_continues(stage: Stage) -> None:
    """completed, by a callback whose signal was lost: the next run reads the inbox when it goes on waiting."""
    task = await external(stage, Step.WORKSPACE_READY, policy=SHORT)
    await task.tell(READY)
    await pad(task)
    await task.until("running")
    await task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
    assert (await task.end())["status"] == "completed"
    await assert_whole(task)


async def test_a_start_that_is_sent_again_finds_the_attempt(stage: Stage) -> None:
    """Delivered while a later run works, and after it ended: there is no second first run."""
    task = await external(stage, Step.RUNNING, policy=SHORT)
    await pad(task)
    before = len(await renewed(task))
    spec = TaskSpec.model_validate({"command": ["true"], "provider": "external"})
    argument = RunnerInput(task_id=task.task, attempt=1, project=DEFAULT_PROJECT, spec=spec)
    assert await stage.gateway.start(argument) is Sent.DELIVERED
    await task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
    assert (await task.end())["status"] == "completed"
    assert await stage.gateway.start(argument) is Sent.DELIVERED
    assert len(await assert_whole(task)) == before


# --- what arrives, or breaks, while a run ends and the next one begins ----------------------------------------------


@asynccontextmanager
async def about_to_renew(stage: Stage) -> AsyncIterator[Running]:
    """Give a task with a long history whose next workflow task ends the turn, writes that, and continues as new."""
    async with stage.worker():
        task = await external(stage, Step.RUNNING, followup=True, policy=SHORT)
    await pad(task)
    await task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0, result="one")
    yield task


async def cancel(task: Running) -> asyncio.Future[Any]:
    """Cancel it."""
    await task.handle.cancel()
    return asyncio.ensure_future(asyncio.sleep(0))


async def signal(task: Running) -> asyncio.Future[Any]:
    """Tell the next turn's end."""
    await task.signal(SignalName.WORKSPACE_FINISHED, turn=2, exit_code=0, result="two")
    return asyncio.ensure_future(asyncio.sleep(0))


async def update(task: Running) -> asyncio.Future[Any]:
    """Say something, to a task that may be on its way from one run to the next."""
    command = task.handle.execute_update(UpdateName.FOLLOWUP, Followup(message="go on"))
    return asyncio.ensure_future(asyncio.wait_for(command, 20))


@pytest.mark.parametrize("arrive", [cancel, signal, update], ids=lambda arrive: arrive.__name__)
async def test_what_arrives_at_that_moment(
    bare_stage: Stage, arrive: Callable[[Running], Awaitable[asyncio.Future[Any]]]
) -> None:
    """Neither lost nor doubled: a cancel cancels, a signal counts, an update is refused or begins turn 2."""
    watch = AfterCommit("flush")
    answers: list[asyncio.Future[Any]] = []
    async with about_to_renew(bare_stage) as task:

        async def then() -> None:
            answers.append(await arrive(task))

        watch.then = then
        async with bare_stage.worker(interceptors=[FailureInterceptor(), watch]):
            if arrive is cancel:
                assert (await task.end())["status"] == "cancelled"
            else:
                await listening(task, 1)
                (said,) = await asyncio.gather(*answers, return_exceptions=True)
                if said != 2:
                    assert await say(task, "go on") == 2
                if arrive is update:
                    await task.signal(SignalName.WORKSPACE_FINISHED, turn=2, exit_code=0, result="two")
                await listening(task, 2)
                await task.handle.execute_update(UpdateName.CLOSE)
                row = await task.end()
                assert (row["status"], row["result"]) == ("completed", "two")
                assert (await task.story()).count("agent.followup") == 1
            assert len(await assert_whole(task)) >= (1 if arrive is cancel else 2)


async def test_the_database_is_away_meanwhile(bare_stage: Stage) -> None:
    """Nothing is lost in the seconds for which the last write of a run is tried, over workflow tasks' time-outs."""
    away = faulty(bare_stage, "flush_task", "57P03", times=9)
    async with about_to_renew(bare_stage) as task, away, bare_stage.worker():
        await listening(task, 1)
        await renewed(task)
        await task.handle.execute_update(UpdateName.CLOSE)
        row = await task.end()
    assert (row["status"], row["result"]) == ("completed", "one")
    await assert_whole(task)


@pytest.mark.parametrize("times", [1, 2])
async def test_a_worker_is_killed_meanwhile(bare_stage: Stage, temporal_address: str, times: int) -> None:
    """Each event once: killed after the last write of one run, or after the first one of the next."""
    async with about_to_renew(bare_stage) as task:
        async with mortal(bare_stage, temporal_address, "flush", times) as process, asyncio.timeout(30):
            assert await process.wait() == -9
        async with bare_stage.worker():
            await listening(task, 1)
            assert await say(task, "go on") == 2
            await task.signal(SignalName.WORKSPACE_FINISHED, turn=2, exit_code=0, result="two")
            await listening(task, 2)
            await task.handle.execute_update(UpdateName.CLOSE)
            row = await task.end()
    assert (row["status"], row["result"], await task.holds()) == ("completed", "two", 0)
    await assert_whole(task)


async def test_a_flush_of_an_earlier_run_changes_nothing(stage: Stage) -> None:
    """Unwritten: what a frozen worker of the first run sends after the second one has written."""
    task = await external(stage, Step.RUNNING, policy=SHORT)
    await pad(task)
    await renewed(task)
    await task.signal(SignalName.WORKSPACE_READY)
    boundary = 1 << BASE_BITS
    await stage.until(f"SELECT version >= {boundary} FROM tasks WHERE id = '{task.task}'")  # noqa: S608 - ours
    before = await task.story()
    late = Flush(task_id=task.task, attempt=1, version=boundary - 1)
    async with stage.database.commit("test") as connection:
        assert (await mirror.flush(connection, late))["verdict"] == "repeat"
    assert await task.story() == before
    await task.handle.cancel()
    assert (await task.end())["status"] == "cancelled"
