"""What goes wrong in a step: tried again while it may help, told in words that a person can act on."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from temporalio.exceptions import ApplicationError

from activities.failures import MESSAGE_LIMIT
from domain.errors import Category, Failure
from domain.events import EventType
from domain.lifecycle import Step
from domain.messages import Acknowledgement
from domain.names import WorkspaceId
from domain.policy import Policy, StepRetry
from tests.workflows.node import ScriptedNode
from tests.workflows.scenes import BLOCKING, FINISHED, READY
from tests.workflows.stage import Running, Stage

# As by default, only faster: the delays are told in the events.
QUICK = Policy.model_validate({"step_retry": {"first_delay": 0.05, "longest_delay": 0.08}})
NODE_STEPS = [step for step in BLOCKING if step is not Step.CLEANUP]


def failing(failure: Exception, *, times: int = 99) -> Callable[[Any], Awaitable[None]]:
    """Return a script that raises so often, then lets the node do its work."""
    left = [failure] * times

    async def play(_: Any) -> None:
        if left:
            raise left.pop()

    return play


def transient() -> Failure:
    """Return a failure that the same call may overcome."""
    return Failure("busy", "The node is busy.", category=Category.INFRASTRUCTURE, transient=True)


def permanent() -> Failure:
    """Return a failure that stays."""
    return Failure("no_such_ref", "There is no branch `x`.", category=Category.INPUT, context={"ref": "x"})


async def started(
    stage: Stage, node: ScriptedNode, step: Step, script: Callable[[Any], Awaitable[Any]], **body: Any
) -> Running:
    """Start a local task whose workspace tells all that it has to tell at once."""
    node.script[BLOCKING[step]] = script
    attachments = ["notes"] if step is Step.ATTACHMENT_TRANSFER else []
    body = {"node_labels": {"node": node.id}, "attachments": attachments} | body
    return await stage.start(told=[READY, FINISHED], policy=QUICK, **body)


def test_the_default_is_the_contracts() -> None:
    """3 tries, 5 s doubling to 60 s."""
    retry = StepRetry()
    assert (retry.tries, retry.first_delay.total_seconds(), retry.longest_delay.total_seconds()) == (3, 5, 60)


@pytest.mark.parametrize("step", BLOCKING)
async def test_a_transient_failure_is_tried_again(stage: Stage, step: Step) -> None:
    """Completed at the third try; each new try is an event with its cause and its delay."""
    async with stage.node() as node:
        task = await started(stage, node, step, failing(transient(), times=2))
        row = await task.end()
        retrying = [event for event in await task.events() if event.type is EventType.STEP_RETRYING]
        assert (row["status"], len(node.calls[BLOCKING[step]])) == ("completed", 3)
        assert [(event.step, event.data["error"]["code"]) for event in retrying] == [(step, "busy")] * 2
        assert [event.data["next_try_in_seconds"] for event in retrying] == [0.05, 0.08]
        assert await task.holds() == 0


@pytest.mark.parametrize("step", NODE_STEPS)
async def test_tries_are_numbered(stage: Stage, step: Step) -> None:
    """Failed after the third try, by the failure of the last one."""
    async with stage.node() as node:
        task = await started(stage, node, step, failing(transient()))
        row = await task.end()
        error = row["error"]
        assert (error["code"], error["step"], error["context"]["try"], error["retryable"]) == ("busy", step, 3, True)
        assert (len(node.calls[BLOCKING[step]]), await task.holds(), await stage.used(node)) == (3, 0, 0)


@pytest.mark.parametrize("step", NODE_STEPS)
async def test_a_permanent_failure_is_not_tried_again(stage: Stage, step: Step) -> None:
    """Failed at once, with what the adapter said, where it happened, and what to do."""
    async with stage.node() as node:
        task = await started(stage, node, step, failing(permanent()))
        row = await task.end()
        error = row["error"]
        assert (error["code"], error["category"], error["step"]) == ("no_such_ref", "input", step)
        assert error["context"].items() >= {"attempt": 1, "node_id": node.id, "ref": "x", "try": 1}.items()
        assert error["guidance"]
        assert (len(node.calls[BLOCKING[step]]), await task.holds()) == (1, 0)
        assert isinstance(task.failure, ApplicationError)
        assert (task.failure.type, task.failure.non_retryable) == ("input", True)


@pytest.mark.parametrize("step", NODE_STEPS)
async def test_an_unclassified_exception_is_tried_again(stage: Stage, step: Step) -> None:
    """Failed after 3 tries as internal, in the exception's own words."""
    async with stage.node() as node:
        task = await started(stage, node, step, failing(KeyError("surprise")))
        row = await task.end()
        assert (row["error"]["code"], row["error"]["category"]) == ("unexpected", "internal")
        assert row["error"]["message"] == "KeyError: 'surprise'"
        assert len(node.calls[BLOCKING[step]]) == 3


@pytest.mark.parametrize("failure", [transient(), permanent()], ids=["transient", "permanent"])
async def test_a_workspace_that_cannot_be_destroyed_stays_in_the_ledger(stage: Stage, failure: Failure) -> None:
    """Completed with `cleanup: pending`; the ledger's entries stay open for the reaper."""
    async with stage.node() as node:
        task = await started(stage, node, Step.CLEANUP, failing(failure))
        row = await task.end()
        assert (row["status"], (await task.events())[-1].data["cleanup"]) == ("completed", "pending")
        assert (await task.holds(), await stage.used(node)) == (2, 1)


async def test_a_wrong_acknowledgement_is_none(stage: Stage) -> None:
    """failed: the node spoke of another workspace."""

    async def another(_: Any) -> Acknowledgement:
        return Acknowledgement(workspace_id=WorkspaceId("another"))

    async with stage.node() as node:
        task = await started(stage, node, Step.WORKSPACE_DISPATCH, another)
        row = await task.end()
        assert (row["error"]["code"], row["error"]["category"]) == ("wrong_workspace", "internal")
        assert await task.holds() == 0


async def test_a_failure_of_any_size_is_told(stage: Stage) -> None:
    """failed, with the beginning of a message that no history could hold."""
    async with stage.node() as node:
        task = await started(stage, node, Step.AGENT_SESSION, failing(ValueError("x" * 3_000_000)))
        row = await task.end()
        assert (row["error"]["code"], len(row["error"]["message"])) == ("unexpected", MESSAGE_LIMIT)
