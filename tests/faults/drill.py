"""The drill: what the race lab has struck too seldom is struck until it was often enough, scene by scene.

The lab's dice favour what happens often; here each failpoint that lacks hits is armed and its own scene is played,
several at once, in a stack of its own, and the checker looks at what is left.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from random import Random
from typing import Any, Final

from tests.faults import report
from tests.faults.caller import Caller
from tests.faults.load import take_over
from tests.faults.points import Action, points
from tests.faults.quiet import settled
from tests.faults.scenes import play, scene_of
from tests.faults.snapshot import Snapshot
from tests.faults.stack import FaultStack
from tests.faults.sweeps import Scene

AT_ONCE: Final = 6
AGAIN: Final = 1.5  # seconds; a step has three tries within a few
# A death costs seconds of a machine that others need too; the loop over the failpoints kills at each.
DEADLY: Final = 0.05
# What is done only when something else went wrong before.
AFTER_A_FAULT: Final = {
    "outbox.put_back": "engine.start:before",
    "run_intents.put_back": "engine.start_run:before",
    "outbox.cancel_again": "engine.terminate:before",
    "blobs.discard": "artifacts.put:before",
}


def arm(stack: FaultStack, point: str, action: Action) -> None:
    """Arm a failpoint, and what must go wrong before anybody comes to it."""
    for after, first in AFTER_A_FAULT.items():
        if point.startswith(after):
            stack.armoury.arm(first, Action.ERROR)
    stack.armoury.arm(point, action)


class Drill:
    """One round, for so many seconds at most: what lacks hits is made up for."""

    def __init__(self, stack: FaultStack, dice: Random, known: Mapping[str, int]) -> None:
        self.stack = stack
        self.dice = dice
        self.caller = Caller(stack.http)
        self.complaints: list[str] = []
        self._known = Counter(known)
        self._on_stage: Counter[Scene] = Counter()

    async def run(self, seconds: float) -> tuple[Snapshot, dict[str, Any]]:
        """Play until nothing lacks or the time is over; returns what there is then, and its part of the report."""
        until = time.monotonic() + seconds
        arming = asyncio.create_task(self._arm())
        await asyncio.gather(*(self._player(until) for _ in range(AT_ONCE)))
        arming.cancel()
        await asyncio.gather(arming, return_exceptions=True)
        self.stack.armoury.disarm()
        for keeper in self.stack.ours:
            await keeper.ready()
        await take_over(self.stack, self.caller)
        snapshot = await settled(self.stack, self.caller.witness)
        own = {"seconds": seconds, "faults": {}}
        return snapshot, own | report.run_of(snapshot, self.stack.armoury.hits(), self.complaints)

    def lacking(self) -> list[str]:
        """Return the failpoints that have too few hits, with those of this round."""
        struck = Counter(self._known)
        for (point, _), times in self.stack.armoury.hits().items():
            struck[point] += times
        return [point for point in points() if struck[point] < report.ENOUGH]

    async def _arm(self) -> None:
        """Arm what lacks hits and is on stage, again and again: between two strikes everybody has time to try again."""
        while True:
            for point in self.lacking():
                if self._on_stage[scene_of(point)] and not self.stack.armoury.armed(point):
                    arm(self.stack, point, Action.KILL if self.dice.random() < DEADLY else Action.ERROR)
            await asyncio.sleep(AGAIN)

    async def _player(self, until: float) -> None:
        while (lacking := self.lacking()) and time.monotonic() < until:
            scene = self._next([scene_of(point) for point in lacking])
            self._on_stage[scene] += 1
            try:
                await play(scene, self.stack, self.caller)
            except Exception as complaint:  # noqa: BLE001 - by other scenes' faults; the checker says what was right
                self.complaints.append(repr(complaint)[:200])
            finally:
                self._on_stage[scene] -= 1

    def _next(self, wanted: list[Scene]) -> Scene:
        """Return the scene with the most to do of those that are on stage least."""
        counts = Counter(wanted)
        return min(counts, key=lambda scene: (self._on_stage[scene], -counts[scene] * self.dice.uniform(0.5, 1)))
