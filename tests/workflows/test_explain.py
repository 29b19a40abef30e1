"""What an explanation predicts is what then happens."""

from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from typing import Any, Final

import pytest

from domain.events import Event, EventType, fold
from domain.explain import Explanation, explain
from domain.facts import Facts
from domain.lifecycle import NodeStatus, Step
from domain.messages import CallbackSignal, Followup, NodeReady
from domain.names import DEFAULT_PROJECT, NodeId, SignalName, UpdateName
from domain.policy import Budgets
from domain.spec import TaskSpec
from store import facts
from tests.workflows.scenes import CLAIMED, FINISHED, READY, Scene, external, scene
from tests.workflows.stage import Running, Stage

TURN: Final = (EventType.STEP_STARTED, EventType.STEP_FINISHED)
SHORT: Final = {"workspace_dispatch": 1, "attachment_transfer": 1, "cleanup": 1}


def explained_at(step: Step, log: list[Event], row: dict[str, Any]) -> Explanation:
    """Explain the task as its row was when this step began."""
    began = next(event.ts for event in log if event.type is EventType.STEP_STARTED and event.step is step)
    told = fold(event for event in log if event.ts <= began)
    spec = TaskSpec.model_validate(row["spec"])
    known = Facts(
        task_id=row["id"],
        status=told.status,
        step=step,
        attempt=told.attempt,
        changed_at=began,
        read_at=began,
        step_started_at=told.step_started_at,
        active_at=began,
        node_id=NodeId(told.node_id) if told.node_id else None,
        external=spec.provider == "external",
        attachments=len(spec.attachments),
        followup=spec.followup,
        budgets=Budgets().overridden(spec.timeouts),
        retry=spec.retry,
    )
    return explain(known, now=began)


async def assert_failed_as_predicted(task: Running, step: Step) -> None:
    """Nothing came: at `until`, not before, the step ended as `on_failure` said."""
    row = await task.end()
    log = await task.events()
    explanation = explained_at(step, log, row)
    assert explanation.until is not None
    assert explanation.on_failure is not None
    ends = (EventType.STEP_FAILED, EventType.STEP_FINISHED)
    ended = next(event for event in log if event.type in ends and event.step is step)
    assert explanation.until <= ended.ts < explanation.until + timedelta(minutes=2)
    predicted = explanation.on_failure
    if predicted.code == "cleanup_pending":
        assert log[-1].data["cleanup"] == "pending"
        return
    assert row["status"] == predicted.status
    assert (row["error"] or {"code": "silence"})["code"] == predicted.code


@pytest.mark.parametrize(
    ("step", "told", "body"),
    [
        (Step.WORKSPACE_DISPATCH, [], {}),
        (Step.WORKSPACE_READY, [CLAIMED], {}),
        (Step.RUNNING, [CLAIMED, READY], {}),
        (Step.RUNNING, [CLAIMED, READY], {"timeouts": {"running": 7200, "running_absolute": 3600}}),
        (Step.RUNNING, [CLAIMED, READY], {"timeouts": {"running_idle": 600}}),
        (Step.AWAITING_FOLLOWUP, [CLAIMED, READY, FINISHED], {"followup": True}),
    ],
)
async def test_a_wait_of_an_external_task_ends_as_predicted(
    skipping_stage: Stage, step: Step, told: list[CallbackSignal], body: dict[str, Any]
) -> None:
    """Its deadline is `until`, its end `on_failure`: an error's code, or completed by silence."""
    await assert_failed_as_predicted(await skipping_stage.start(provider="external", told=told, **body), step)


@pytest.mark.parametrize(
    ("step", "slots", "status"),
    [
        (Step.WAITING_FOR_NODE_CAPACITY, 0, NodeStatus.READY),
        (Step.NODE_AGENT_READY, 1, NodeStatus.PROVISIONING),
        (Step.WORKSPACE_READY, 1, NodeStatus.READY),
    ],
)
async def test_a_wait_of_a_local_task_ends_as_predicted(
    skipping_stage: Stage, step: Step, slots: int, status: NodeStatus
) -> None:
    """No slot, no report, no callback."""
    async with skipping_stage.node(slots=slots, status=status) as node:
        task = await skipping_stage.start(node_labels={"node": node.id})
        await assert_failed_as_predicted(task, step)


@pytest.mark.parametrize("step", [Step.WORKSPACE_DISPATCH, Step.ATTACHMENT_TRANSFER, Step.AGENT_SESSION, Step.CLEANUP])
async def test_an_effect_that_hangs_ends_as_predicted(stage: Stage, step: Step) -> None:
    """A node that does not answer: `node_unreachable`, or a cleanup that is left to the reaper."""
    async with scene(stage, step, timeouts=SHORT) as at:
        await assert_failed_as_predicted(at.task, step)


async def _granted(at: Scene) -> None:
    await at.task.stage.set_slots(at.node, 1)


async def _reported_in(at: Scene) -> None:
    await at.task.stage.execute("UPDATE nodes SET status = 'ready' WHERE id = :id", id=at.node.id)
    await at.task.handle.signal(SignalName.NODE_READY, NodeReady(node_id=at.node.id))


async def _answered(at: Scene) -> None:
    at.gate.opened.set()


async def _ready(at: Scene) -> None:
    await at.task.signal(SignalName.WORKSPACE_READY)


async def _finished(at: Scene) -> None:
    await at.task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)


async def _spoken(at: Scene) -> None:
    await at.task.handle.execute_update(UpdateName.FOLLOWUP, Followup(message="go on"))


COMES: Final[dict[Step, Callable[[Scene], Awaitable[None]]]] = {
    Step.WAITING_FOR_NODE_CAPACITY: _granted,
    Step.NODE_AGENT_READY: _reported_in,
    Step.WORKSPACE_DISPATCH: _answered,
    Step.WORKSPACE_READY: _ready,
    Step.ATTACHMENT_TRANSFER: _answered,
    Step.AGENT_SESSION: _answered,
    Step.RUNNING: _finished,
    Step.AWAITING_FOLLOWUP: _spoken,
    Step.CLEANUP: _answered,
}


async def explanation_of(task: Running) -> Explanation:
    """Explain the task as its row is now."""
    async with task.stage.database.read() as connection:
        found = await facts.of_task(connection, DEFAULT_PROJECT, task.task, budgets=task.stage.policy.budgets)
    assert found is not None
    return explain(found, now=found.read_at)


def steps_after(log: list[Event], seq: int) -> Iterator[Step]:
    """The steps that began after this event."""
    return (event.step for event in log if event.seq > seq and event.type is EventType.STEP_STARTED and event.step)


async def assert_went_on_as_predicted(task: Running, come: Callable[[], Awaitable[None]]) -> None:
    """What it waits for comes, and the next step to begin is the one that was said."""
    explanation, before = await explanation_of(task), await task.row()
    assert explanation.since == before["step_started_at"]
    assert explanation.next is not None
    await come()
    if explanation.next.code == "end":
        assert (await task.end())["outcome"] is not None
        return
    query = "SELECT count(*) > 0 FROM events WHERE task_id = '{}' AND seq > {} AND type = 'step.started'"
    await task.stage.until(query.format(task.task, before["last_seq"]))
    assert next(steps_after(await task.events(), before["last_seq"])) == explanation.next.code
    assert explanation.next.status is not None


@pytest.mark.parametrize("step", COMES)
async def test_what_a_local_task_waits_for_leads_where_it_was_said(stage: Stage, step: Step) -> None:
    """The next step of the log is `next`."""
    async with scene(stage, step) as at:
        await assert_went_on_as_predicted(at.task, lambda: COMES[step](at))


@pytest.mark.parametrize(
    ("step", "signal"),
    [
        (Step.WORKSPACE_DISPATCH, SignalName.WORKSPACE_CLAIMED),
        (Step.WORKSPACE_READY, SignalName.WORKSPACE_READY),
        (Step.RUNNING, SignalName.WORKSPACE_FINISHED),
    ],
)
async def test_what_an_external_task_waits_for_leads_where_it_was_said(
    stage: Stage, step: Step, signal: SignalName
) -> None:
    """The same for callbacks."""
    task = await external(stage, step, followup=True)
    await assert_went_on_as_predicted(task, lambda: task.signal(signal))


async def test_those_who_wait_for_a_slot_know_their_place(stage: Stage) -> None:
    """The one with the higher priority is before the one that came first."""
    async with stage.node(slots=0) as node:
        first = await stage.start(node_labels={"node": node.id}, priority=3)
        await first.until("waiting_for_node_capacity")
        second = await stage.start(node_labels={"node": node.id}, priority=1)
        await second.until("waiting_for_node_capacity")
        assert "place 2 " in (await explanation_of(first)).waits_for.text
        assert "place 1 " in (await explanation_of(second)).waits_for.text
        await stage.set_slots(node, 2)
        for task in (first, second):
            await task.until("workspace_ready")
            await task.handle.cancel()
            await task.end()


async def test_a_later_turn_knows_what_the_first_one_took(stage: Stage) -> None:
    """The absolute cap is told by the time that all turns ran, and not by the waits between them."""
    timeouts = {"running": 3600, "running_absolute": 3600}
    task = await external(stage, Step.AWAITING_FOLLOWUP, timeouts=timeouts)
    await task.handle.execute_update(UpdateName.FOLLOWUP, Followup(message="go on"))
    await task.until("running")
    first = [event.ts for event in await task.events() if event.step is Step.RUNNING and event.type in TURN][:2]
    explanation = await explanation_of(task)
    assert explanation.until == explanation.since + timedelta(hours=1) - (first[1] - first[0])
    await task.handle.cancel()
    await task.end()


async def test_a_cancel_that_is_not_acknowledged_is_forced_as_predicted(stage: Stage) -> None:
    """While the cleanup hangs, `until` is when the force is due; then `on_failure` happens."""
    async with scene(stage, Step.CLEANUP) as at:
        await at.task.cancel()
        due = "SELECT count(*) > 0 FROM outbox WHERE task_id = '{}' AND kind = 'force'"
        await stage.until(due.format(at.task.task))
        explanation = await explanation_of(at.task)
        assert (explanation.waits_for.code, explanation.on_failure and explanation.on_failure.code) == (
            "cancel",
            "cancel_forced",
        )
        row = await at.task.until(status="cancelled")
        assert row["error"]["code"] == "cancel_forced"
        assert explanation.until is not None
        assert row["finished_at"] >= explanation.until
