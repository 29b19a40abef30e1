"""A workflow that ends at once: when its result is there, its worker has polled."""

from temporalio import workflow


@workflow.defn
class Idle:
    """Do nothing."""

    @workflow.run
    async def run(self) -> None:
        """End."""
