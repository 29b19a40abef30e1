"""Workspaces that are kept, and attempts that go on in them."""

import json
from typing import Any

import pytest

from domain.events import EventType
from domain.lifecycle import STEP_ORDER, Step
from domain.messages import Acknowledgement, SlotGranted, WorkspaceRef
from domain.names import SignalName, WorkspaceId
from tests.workflows.node import ScriptedNode
from tests.workflows.scenes import Scene, scene
from tests.workflows.stage import Running, Stage
from tests.workflows.test_retries import fail
from tests.workflows.test_retries_by_hand import retry

KEPT = {"on": "failure", "for": 3600}
AGAIN = {"max_attempts": 2, "backoff": 0.1}


async def state_of(stage: Stage, workspace: WorkspaceId) -> tuple[str, str]:
    """The workspace's status, and its entry's state."""
    async with stage.database.read() as connection:
        query = f"SELECT w.status, l.state FROM workspaces w JOIN ledger l ON l.tag = w.id WHERE w.id = '{workspace}'"  # noqa: S608
        return tuple((await connection.exec_driver_sql(query)).one())


async def finish(task: Running, exit_code: int) -> dict[str, Any]:
    """Let the command end; returns the row after the attempt."""
    await task.until("running")
    await task.signal(SignalName.WORKSPACE_FINISHED, exit_code=exit_code)
    return await task.end()


async def kept(at: Scene, exit_code: int = 3) -> None:
    """Let the task of a scene fail, and see that its workspace is kept and its slot free."""
    assert (await finish(at.task, exit_code))["status"] == "failed"
    assert await state_of(at.task.stage, at.task.workspace) == ("retained", "retained")
    assert await at.task.stage.used(at.node) == 0


def ends(node: ScriptedNode) -> list[bool]:
    """In which order the node was told to keep a workspace, or to destroy it."""
    return [ref.keep for ref in node.calls["destroy_workspace"]]


@pytest.mark.parametrize(
    ("on", "ending", "state"),
    [
        ("never", "failed", "released"),
        ("failure", "failed", "retained"),
        ("failure", "cancelled", "retained"),
        ("failure", "completed", "released"),
        ("always", "failed", "retained"),
        ("always", "cancelled", "retained"),
        ("always", "completed", "retained"),
    ],
)
async def test_the_end_decides_whether_a_workspace_is_kept(stage: Stage, on: str, ending: str, state: str) -> None:
    """Kept: its processes are stopped, its files stay, its slot is free. A failure is every end but completion."""
    async with scene(stage, Step.RUNNING, keep_workspace={"on": on, "for": 3600}) as at:
        if ending == "cancelled":
            await at.task.handle.cancel()
            row = await at.task.end()
        else:
            row = await finish(at.task, 0 if ending == "completed" else 3)
        assert row["status"] == ending
        keeps = state == "retained"
        assert (ends(at.node), at.node.workspaces) == ([keeps], {at.task.workspace} if keeps else set())
        assert await state_of(stage, at.task.workspace) == (state, state)
        assert await stage.used(at.node) == 0
        [cleaned] = [event for event in await at.task.events() if event.type is EventType.ATTEMPT_CLEANED]
        assert cleaned.data.get("workspace_kept_seconds") == (3600 if keeps else None)


async def test_an_attempt_with_another_behind_it_keeps_nothing(stage: Stage) -> None:
    """Destroyed after attempt 1, which is tried again; kept after attempt 2, which is the last."""
    async with scene(stage, Step.RUNNING, keep_workspace={"on": "always"}, retry=AGAIN) as at:
        await fail(at.task)
        last = Running(stage, at.task.task, 2)
        await last.until("workspace_ready")
        await fail(last)
        assert ends(at.node) == [False, True]
        assert at.node.workspaces == {last.workspace}


async def test_what_a_node_has_not_kept_is_destroyed(stage: Stage) -> None:
    """Released: the node knew no files of it, so its id is closed for good."""
    async with scene(stage, Step.RUNNING, keep_workspace=KEPT) as at:

        async def forgetful(ref: WorkspaceRef) -> Acknowledgement:
            at.node.workspaces.discard(ref.workspace_id)
            return Acknowledgement(workspace_id=ref.workspace_id)

        at.node.script["destroy_workspace"] = forgetful
        await finish(at.task, 3)
        assert ends(at.node) == [True, False]
        assert await state_of(stage, at.task.workspace) == ("released", "released")


async def test_the_next_attempt_goes_on_in_the_kept_workspace(stage: Stage) -> None:
    """Completed in the workspace of attempt 1, which is not made again: what was done is skipped, with its reason."""
    async with scene(stage, Step.RUNNING, keep_workspace=KEPT) as at:
        await kept(at)
        again = await retry(at.task, resume=True)
        row = await finish(again, 0)
        assert (row["status"], row["attempt"], row["workspace_id"]) == ("completed", 2, at.task.workspace)
        assert len(at.node.calls["create_workspace"]) == 1
        assert [(order.order.attempt, order.order.workspace_id) for order in at.node.calls["start_agent"]] == [
            (1, at.task.workspace),
            (2, at.task.workspace),
        ]
        skipped = {
            event.step: event.data["reason"]
            for event in await again.events()
            if event.attempt == 2 and event.type is EventType.STEP_SKIPPED
        }
        passed = (Step.WORKSPACE_DISPATCH, Step.WORKSPACE_READY, Step.ATTACHMENT_TRANSFER)
        assert all("kept" in skipped[step] for step in passed)
        begun = [e.step for e in await again.events() if e.attempt == 2 and e.type is EventType.STEP_STARTED]
        assert not set(begun) & set(passed)
        assert begun == [step for step in STEP_ORDER if step in begun]
        await at.assert_clean()


async def test_a_resumed_attempt_that_fails_keeps_it_again(stage: Stage) -> None:
    """Retained a second time, owned by attempt 2, and attempt 3 completes in it."""
    async with scene(stage, Step.RUNNING, keep_workspace=KEPT) as at:
        await kept(at)
        again = await retry(at.task, resume=True)
        await finish(again, 4)
        assert await state_of(stage, at.task.workspace) == ("retained", "retained")
        third = await retry(again, resume=True)
        row = await finish(third, 0)
        assert (row["status"], row["attempt"], row["workspace_id"]) == ("completed", 3, at.task.workspace)
        await at.assert_clean()


async def test_a_resumed_attempt_waits_visibly_for_its_own_node(stage: Stage) -> None:
    """Waiting while another holds the only slot of that node, although a second node is free; granted by its end."""
    async with scene(stage, Step.RUNNING, keep_workspace=KEPT) as at, stage.node() as second:
        await stage.execute(
            "UPDATE nodes SET labels = jsonb_build_object('node', CAST(:home AS text)) WHERE id = :id",
            home=at.node.id,
            id=second.id,
        )
        await kept(at)
        other = await stage.start(preferred_node=at.node.id, node_labels={"node": at.node.id})
        await other.until("workspace_ready")
        again = await retry(at.task, resume=True)
        await again.until("waiting_for_node_capacity")
        await other.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
        await other.end()
        row = await finish(again, 0)
        assert (row["status"], row["node_id"]) == ("completed", at.node.id)
        assert second.calls == {}
        await at.assert_clean()


@pytest.mark.parametrize("on", ["failure", "never"])
async def test_a_resumed_attempt_that_ends_while_it_waits_releases_what_it_owns(stage: Stage, on: str) -> None:
    """Kept again or destroyed, by the policy; its workspace is its own from the first moment on."""
    async with scene(stage, Step.RUNNING, keep_workspace=KEPT) as at:
        await kept(at)
        await stage.execute("UPDATE nodes SET slots = 0 WHERE id = :id", id=at.node.id)
        await stage.execute(
            "UPDATE tasks SET spec = spec || CAST(:policy AS jsonb) WHERE id = :id",
            id=at.task.task,
            policy=json.dumps({"keep_workspace": {"on": on, "for": 3600}}),
        )
        again = await retry(at.task, resume=True)
        await again.until("waiting_for_node_capacity")
        await again.handle.cancel()
        row = await again.end()
        assert row["status"] == "cancelled"
        state = "retained" if on == "failure" else "released"
        assert await state_of(stage, at.task.workspace) == (state, state)
        assert at.node.workspaces == ({at.task.workspace} if on == "failure" else set())


async def test_a_resumed_attempt_survives_a_lost_slot(stage: Stage) -> None:
    """Completed: a slot that was promised and lost sends it back to the choice, which is still its own node."""
    async with scene(stage, Step.RUNNING, keep_workspace=KEPT) as at:
        await kept(at)
        await stage.execute("UPDATE nodes SET slots = 0 WHERE id = :id", id=at.node.id)
        again = await retry(at.task, resume=True)
        await again.until("waiting_for_node_capacity")
        await again.handle.signal(SignalName.SLOT_GRANTED, SlotGranted(node_id=at.node.id))
        visited = "SELECT count(*) > 0 FROM events WHERE task_id = '{}' AND step = '{}' AND data ->> 'visit' = '2'"
        await stage.until(visited.format(again.task, Step.WAITING_FOR_NODE_CAPACITY))
        await stage.set_slots(at.node, 1)
        row = await finish(again, 0)
        assert (row["status"], row["workspace_id"]) == ("completed", at.task.workspace)
        await at.assert_clean()
