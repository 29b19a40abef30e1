"""The order of those who wait for a slot: the one by which the database grants, worked out ahead."""

import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from domain.names import ProjectId, TaskId

NEVER = datetime.min.replace(tzinfo=UTC)
# What decides, in this order: priority, share, turn, age; then whose the first of its project's queue is, and how many
# slots that project has been granted here.
Key = tuple[int, int, tuple[int, datetime], datetime, TaskId, ProjectId, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """One that waits: its claim, how many slots its project holds now, and when that took its last one."""

    task_id: TaskId
    project: ProjectId
    priority: int
    since: datetime
    held: int
    turn: datetime | None


def in_order(waiting: Iterable[Waiting]) -> Iterator[TaskId]:
    """Yield who would be granted a slot next, and next, if slots became free that none of these projects hold.

    Each grant makes its project hold one more, and come last among those that hold as many.
    """
    queues: dict[ProjectId, list[Waiting]] = defaultdict(list)
    for each in sorted(waiting, key=lambda each: (each.priority, each.since, each.task_id), reverse=True):
        queues[each.project].append(each)

    def head(project: ProjectId, grants: int, turn: tuple[int, datetime]) -> Key:
        first = queues[project][-1]
        return (first.priority, first.held + grants, turn, first.since, first.task_id, project, grants)

    heap = [head(project, 0, (0, each[-1].turn or NEVER)) for project, each in queues.items()]
    heapq.heapify(heap)
    count = 0
    while heap:
        *_, task, project, grants = heapq.heappop(heap)
        yield task
        count += 1
        queues[project].pop()
        if queues[project]:
            heapq.heappush(heap, head(project, grants + 1, (count, NEVER)))
