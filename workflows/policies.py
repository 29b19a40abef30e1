"""Every timeout and retry policy of the workflows, each with its reason."""

from datetime import timedelta
from typing import Final

from temporalio.common import RetryPolicy

# The mirror: nothing may go on before it is written, so a flush is tried for as long as the database is away.
# Found by measurement: with the database away for 20 s a flush lands 1.4 s after its return (11 s by default).
MIRROR_RETRY: Final = RetryPolicy(
    initial_interval=timedelta(milliseconds=200), backoff_coefficient=2.0, maximum_interval=timedelta(seconds=2)
)
# One round trip of milliseconds; a connection that hangs is given up in time for the next try.
MIRROR_TRY: Final = timedelta(seconds=10)

# Effects on a node are tried again by the step itself, so that each try is an event with its cause.
NODE_RETRY: Final = RetryPolicy(maximum_attempts=1)
# Control calls on a node take milliseconds; a node that is busy with a drain answers within seconds.
NODE_TRY: Final = timedelta(seconds=60)
# A node that died in the middle of an effect is noticed this fast, and the effect is tried again.
NODE_HEARTBEAT: Final = timedelta(seconds=5)
# Supervision outlives drains and restarts of its node: unlimited tries, quickly one after the other.
SUPERVISE_RETRY: Final = RetryPolicy(initial_interval=timedelta(seconds=1), backoff_coefficient=1.0)
# A killed node worker is noticed this fast; its successor adopts the process.
SUPERVISE_HEARTBEAT: Final = timedelta(seconds=10)
# A timer of no time at all would be none: what is overdue is so after this.
AT_ONCE: Final = timedelta(milliseconds=1)
# So many repeats of messages are known by their ids: some kilobytes of what continue-as-new carries.
REPEATS: Final = 100
# A step must be readable in the mirror 1 s after it began; one that ends sooner is written with what follows.
VISIBLE: Final = timedelta(milliseconds=500)

# Tasks that a run makes in one transaction: some tens of milliseconds, in which its row is locked.
STARTS_AT_ONCE: Final = 50

# A sweep is bounded; one that takes longer than this hangs, and the schedule waits for its end.
SWEEP: Final = timedelta(minutes=5)
SWEEP_HEARTBEAT: Final = timedelta(seconds=20)
# The next sweep is the next try.
SWEEP_RETRY: Final = RetryPolicy(maximum_attempts=1)
# A node that is away must not hold a sweep up: its workspaces are looked at another time.
LIST_WITHIN: Final = timedelta(seconds=5)
