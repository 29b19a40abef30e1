"""A workflow gives its flushes their versions."""

from temporalio import workflow

from domain.versions import HISTORY_BITS, ORDINAL_BITS, SECONDS_BITS


class Versions:
    """Gives each flush its place in the order of all flushes of a workflow, through all of its runs."""

    def __init__(self) -> None:
        self._ordinal = 0
        self._ordinal_at = 0

    def next(self, base: int) -> int:
        """Return the next one; `base` says how often the workflow has continued as new.

        A local activity whose workflow task failed is redone with other content under a longer history: the redo
        is newer and wins. A replay has the same history length and ordinal: it is a repeat. A plain counter in
        workflow state would give the redo the number of the flush that it must supersede. The server writes no
        event for a second failure of one task in a row, so the task's own time tells that redo from the first.
        A run that continued as new begins with a short history and a young age, above all flushes of the last one.
        """
        length = min(workflow.info().get_current_history_length(), 2**HISTORY_BITS - 1)
        self._ordinal = self._ordinal + 1 if length == self._ordinal_at else 1
        self._ordinal_at = length
        age = workflow.now() - workflow.info().workflow_start_time
        seconds = min(max(int(age.total_seconds()), 0), 2**SECONDS_BITS - 1)
        version = base << HISTORY_BITS | length
        return (version << SECONDS_BITS | seconds) << ORDINAL_BITS | self._ordinal
