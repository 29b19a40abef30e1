"""The schedule of the reconciler: made by whichever control worker starts, and made anew where Temporal lost it."""

from datetime import timedelta
from typing import Final

from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleUpdate,
    ScheduleUpdateInput,
)
from temporalio.common import Priority

from domain.names import RECONCILE, RECONCILE_SCHEDULE
from domain.reconcile import SweepOrder

# A sweep that nobody took up must not keep the next ones waiting for ever.
LONGEST: Final = timedelta(minutes=15)
# What was missed while everything was down is made up for by one sweep.
CATCH_UP: Final = timedelta(seconds=10)
LIMIT: Final = timedelta(seconds=10)


async def keep(client: Client, *, every: timedelta, queue: str) -> None:
    """Create the schedule, or bring the one that is there up to date; a pause of an operator stays. Raises RPCError.

    But for one of the same moment: the SDK reads, then writes, and sends no token by which the engine could refuse.
    """
    wanted = Schedule(
        action=ScheduleActionStartWorkflow(
            RECONCILE,
            SweepOrder(),
            id=RECONCILE_SCHEDULE,
            task_queue=queue,
            execution_timeout=LONGEST,
            static_summary="the safety net: rows, workflows and ledger are compared",
            priority=Priority(priority_key=1),  # it must not wait behind a flood: it may be what ends it
        ),
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=every)]),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=CATCH_UP),
    )

    def update(known: ScheduleUpdateInput) -> ScheduleUpdate:
        wanted.state = known.description.schedule.state
        return ScheduleUpdate(schedule=wanted)

    try:
        await client.create_schedule(RECONCILE_SCHEDULE, wanted, rpc_timeout=LIMIT)
    except ScheduleAlreadyRunningError:
        await client.get_schedule_handle(RECONCILE_SCHEDULE).update(update, rpc_timeout=LIMIT)
