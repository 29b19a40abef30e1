"""A workflow that continued as new has several histories."""

from temporalio.client import Client, WorkflowHistory


async def chain(client: Client, workflow: str) -> list[WorkflowHistory]:
    """Return the histories of a workflow's newest run and of those that it continues, the first one first."""
    found: list[WorkflowHistory] = []
    run: str | None = None
    while run != "":
        found.insert(0, await client.get_workflow_handle(workflow, run_id=run).fetch_history())
        run = found[0].events[0].workflow_execution_started_event_attributes.continued_execution_run_id
    return found
