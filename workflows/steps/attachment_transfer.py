"""Put the task's attachments into the workspace."""

from domain.lifecycle import StepOutcome
from domain.messages import AttachmentOrder
from workflows.attempt import Attempt
from workflows.ports import NodeActivities


async def attachment_transfer(attempt: Attempt) -> StepOutcome:
    """Transfer one file after the other; a file that is there already is not fetched again."""
    if attempt.argument.resume:
        return attempt.skip("the workspace was kept, with its attachments")
    if not attempt.spec.attachments:
        return attempt.skip("the task has no attachments")
    if attempt.external:
        return attempt.skip("an external workspace fetches its attachments itself")
    await attempt.flush()
    for attachment in attempt.spec.attachments:
        await attempt.on_node(
            NodeActivities.transfer_attachment,
            AttachmentOrder(
                workspace_id=attempt.workspace,
                attachment_id=attachment,
                callback_url=attempt.policy.callback_url,
            ),
            summary=f"attachment {attachment}",
            within=attempt.budgets.attachment_transfer,
        )
    return StepOutcome.DONE
