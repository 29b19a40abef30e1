"""The nine invariants, by number and name, over one snapshot."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from tests.faults.invariants import effects, leftovers, logs, outcomes, runs
from tests.faults.snapshot import Snapshot

Invariant = Callable[[Snapshot], Iterator[str]]

INVARIANTS: Final[Mapping[str, Sequence[Invariant]]] = {
    "1 every acknowledged create exists and ends": (logs.something, logs.acknowledged, runs.acknowledged),
    "2 each step's effect took place once": (effects.once,),
    "3 seq is gap-free and the log is legal": (logs.log, runs.log),
    "4 mirror and engine agree on every outcome": (outcomes.agreement, runs.agreement),
    "5 every reader got the log": (logs.readers,),
    "6 no refused callback had an effect": (effects.callbacks,),
    "7 nothing is left over": (leftovers.leftovers, runs.leftovers),
    "8 no workflow reports a problem": (outcomes.problems,),
    "9 recovery is within its budget": (outcomes.recovery,),
}


def name_of(number: int) -> str:
    """Return the name of the invariant with this number."""
    return next(name for name in INVARIANTS if name.startswith(f"{number} "))


def check(snapshot: Snapshot) -> dict[str, list[str]]:
    """Return each invariant's violations; none is an empty list."""
    return {
        name: [found for invariant in invariants for found in invariant(snapshot)]
        for name, invariants in INVARIANTS.items()
    }
