"""What arrives while no worker runs: it is all there at once when one comes."""

from tests.workflows.stage import Stage


async def test_a_cancel_before_the_first_workflow_task(bare_stage: Stage) -> None:
    """cancelled, with nothing reserved: the cancel was there before any worker."""
    task = await bare_stage.start(provider="external")
    await task.handle.cancel()
    async with bare_stage.worker():
        row = await task.end()
    assert (row["status"], await task.holds()) == ("cancelled", 0)
