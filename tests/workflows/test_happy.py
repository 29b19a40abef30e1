"""The straight way through the table."""

from domain.names import SignalName
from tests.workflows.stage import Stage


async def test_an_external_task_goes_from_claim_to_completed(stage: Stage) -> None:
    """Three facts from outside carry an external task through every step of the table."""
    task = await stage.start(provider="external")
    row = await task.until("workspace_dispatch")
    assert row["status"] == "delegated"
    await task.signal(SignalName.WORKSPACE_CLAIMED)
    await task.until("workspace_ready")
    await task.signal(SignalName.WORKSPACE_READY)
    await task.until("running", status="in_progress")
    await task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0, result={"answer": 42})
    row = await task.end()
    assert (row["status"], row["result"], await task.holds()) == ("completed", {"answer": 42}, 0)


async def test_a_local_task_holds_a_slot_while_it_runs(stage: Stage) -> None:
    """A local task reserves a slot of its node, works there, and gives it back."""
    async with stage.node() as node:
        task = await stage.start(node_labels={"node": node.id})
        await task.until("workspace_ready")
        assert await task.holds() == 2
        await task.signal(SignalName.WORKSPACE_READY)
        await task.until("running", status="in_progress")
        await task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
        row = await task.end()
        history = await task.handle.fetch_history()
        assert len(history.events) <= 50
        assert (row["status"], await task.holds(), node.workspaces) == ("completed", 0, set())
