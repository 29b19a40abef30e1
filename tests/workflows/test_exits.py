"""How a command may end: well, badly, too large, or without a trace."""

from typing import Any

import pytest
from temporalio.exceptions import ApplicationError

from activities.failures import RESULT_LIMIT
from domain.errors import Category, Failure, TaskError
from domain.lifecycle import Step
from domain.messages import AgentExit
from domain.names import SignalName
from tests.workflows.scenes import FINISHED, READY, external, scene
from tests.workflows.stage import Stage

LOST = AgentExit(turn=1, lost=True)
UNREADABLE = TaskError(code="result_not_json", category=Category.INPUT, message="The result is not JSON.")


@pytest.mark.parametrize(
    ("seen", "ends"),
    [
        (AgentExit(turn=1, exit_code=0, result={"n": 1}), None),
        (AgentExit(turn=1, exit_code=3), ("nonzero_exit", "agent")),
        (AgentExit(turn=1, exit_code=-9), ("nonzero_exit", "agent")),
        (AgentExit(turn=1, exit_code=0, error=UNREADABLE), ("result_not_json", "input")),
        (LOST, ("runtime_lost", "runtime_lost")),
    ],
    ids=["well", "badly", "killed", "error", "lost"],
)
async def test_the_node_sees_how_a_command_ends(stage: Stage, seen: AgentExit, ends: tuple[str, str] | None) -> None:
    """What the node saw decides, when the workspace never calls `finished`."""
    async with scene(stage, Step.RUNNING) as at:
        at.node.exits[1].set_result(seen)
        row = await at.task.end()
        if ends is None:
            assert (row["status"], row["result"], row["error"]) == ("completed", {"n": 1}, None)
        else:
            assert (row["status"], row["error"]["code"], row["error"]["category"]) == ("failed", *ends)
            assert row["error"]["step"] == "running"
        await at.assert_clean()


@pytest.mark.parametrize("exit_code", [1, 137, -15])
async def test_a_workspace_tells_a_bad_exit(stage: Stage, exit_code: int) -> None:
    """Failed as the agent's, with the exit code in the context; never tried again by itself."""
    task = await external(stage, Step.RUNNING, retry={"max_attempts": 4})
    await task.signal(SignalName.WORKSPACE_FINISHED, exit_code=exit_code)
    row = await task.end()
    assert (row["status"], row["error"]["category"], row["attempt"]) == ("failed", "agent", 1)
    assert row["error"]["context"]["exit_code"] == exit_code


async def test_the_inbox_is_read_before_a_process_counts_as_lost(stage: Stage) -> None:
    """completed: the workspace had told its end, only the signal was still on its way."""
    async with scene(stage, Step.RUNNING) as at:
        await at.task.tell(FINISHED.model_copy(update={"result": "told"}))
        at.node.exits[1].set_result(LOST)
        row = await at.task.end()
        assert (row["status"], row["result"]) == ("completed", "told")


async def test_a_supervision_that_breaks_is_no_proof_of_death(stage: Stage) -> None:
    """completed, by what the inbox says; without that the supervision's own failure counts."""
    broken = Failure("provider_broken", "No exit file.", category=Category.RUNTIME_LOST)

    async def fail(_: Any) -> None:
        raise broken

    async with stage.node() as node:
        node.script["supervise_agent"] = fail
        task = await stage.start(told=[READY], node_labels={"node": node.id})
        row = await task.end()
        assert (row["error"]["code"], row["error"]["step"]) == ("provider_broken", "running")
        assert (await task.holds(), node.workspaces) == (0, set())


@pytest.mark.parametrize("letter", ["x", "\u4e2d"], ids=["ascii", "three bytes"])
async def test_a_result_too_large_fails_the_task(stage: Stage, letter: str) -> None:
    """Failed at once with `result_too_large`, counted in bytes: the server would let it be retried without end."""

    async def much(_: Any) -> AgentExit:
        return AgentExit(turn=1, exit_code=0, result=letter * (RESULT_LIMIT // len(letter.encode()) + 1))

    async with stage.node() as node:
        node.script["supervise_agent"] = much
        task = await stage.start(told=[READY], node_labels={"node": node.id})
        row = await task.end()
        assert (row["error"]["code"], row["error"]["step"]) == ("result_too_large", "running")
        assert isinstance(task.failure, ApplicationError)
        assert await task.holds() == 0


async def test_a_result_at_the_limit_gets_through(stage: Stage) -> None:
    """completed: history, mirror and the workflow's own result hold what the boundary lets pass."""
    result = "x" * (RESULT_LIMIT - 200)

    async def much(_: Any) -> AgentExit:
        return AgentExit(turn=1, exit_code=0, result=result)

    async with stage.node() as node:
        node.script["supervise_agent"] = much
        task = await stage.start(told=[READY], node_labels={"node": node.id})
        row = await task.end()
        assert (row["status"], row["result"] == result) == ("completed", True)
