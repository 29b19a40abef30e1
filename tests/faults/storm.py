"""The faults of the race lab: one after the other, by dice, counted when they strike."""

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from random import Random
from typing import Final

from cli.embedded.processes import ChildFailedError
from tests.faults.points import Action, points
from tests.faults.proxy import Proxy
from tests.faults.stack import FaultStack, Keeper

ARMED_AT_ONCE: Final = 20
# An error costs a moment, a death two seconds of a machine that others need too.
DEADLY: Final = 0.2
SPREAD: Final = 20.0
A_CALL: Final = 150  # bytes; what keeps a connection alive is shorter
Strike = Callable[["Storm"], Awaitable[bool]]


class Storm:
    """Lets faults strike until it is stopped, then mends everything."""

    def __init__(self, stack: FaultStack, dice: Random, known: Mapping[str, int]) -> None:
        self.stack = stack
        self.dice = dice
        self.hits: Counter[str] = Counter()
        self._known = Counter(known)  # hits of earlier seeds: what has few is preferred

    async def rage(self, seconds: float) -> None:
        """Strike at random moments for so long."""
        until = time.monotonic() + seconds
        arming = asyncio.create_task(self._arm())
        try:
            while time.monotonic() < until:
                await asyncio.sleep(self.dice.uniform(0.5, 3.0))
                name = self.dice.choice(list(STRIKES))
                if await STRIKES[name](self):
                    self.hits[name] += 1
        finally:
            arming.cancel()
            await asyncio.gather(arming, return_exceptions=True)
            await self.calm()

    async def calm(self) -> None:
        """Mend everything: nothing strikes any more, and everything runs."""
        self.stack.armoury.disarm()
        for proxy in self.proxies:
            proxy.heal()
        for keeper in self.stack.ours:
            keeper.send(signal.SIGCONT)

    @property
    def proxies(self) -> tuple[Proxy, ...]:
        """What our processes reach the world through."""
        stack = self.stack
        return stack.to_database, stack.to_temporal, stack.api_to_temporal, stack.to_api

    def rarest(self, count: int) -> list[str]:
        """Return the failpoints with the fewest hits so far."""
        struck = self._known + Counter(
            point for (point, _), times in self.stack.armoury.hits().items() for _ in range(times)
        )
        # A point counts as much as its hits, and by chance: one that nobody passes must not keep others out.
        return sorted(points(), key=lambda point: struck[point] + self.dice.random() * SPREAD)[:count]

    async def _arm(self) -> None:
        while True:
            # What nobody passes just now gives way to others.
            self.stack.armoury.disarm()
            for point in self.rarest(ARMED_AT_ONCE):
                action = Action.KILL if self.dice.random() < DEADLY else Action.ERROR
                self.stack.armoury.arm(point, action)
            await asyncio.sleep(1)

    def anybody(self) -> Keeper:
        """Choose a process of ours."""
        return self.dice.choice(self.stack.ours)


async def kill(storm: Storm) -> bool:
    """Kill a process of ours with -9."""
    return storm.anybody().send(signal.SIGKILL)


async def drain(storm: Storm) -> bool:
    """Ask a process of ours to stop: it drains, and another one takes its place."""
    return storm.anybody().send(signal.SIGTERM)


async def freeze(storm: Storm) -> bool:
    """Stop a process of ours for longer than a workflow task may take; it wakes when its work was given away."""
    keeper = storm.anybody()
    pid = keeper.child.pid
    if not keeper.send(signal.SIGSTOP) or pid is None:
        return False
    await asyncio.sleep(storm.dice.uniform(1, 8))
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
    return True


async def kill_temporal(storm: Storm) -> bool:
    """Kill Temporal with -9, and start it again."""
    await storm.stack.kill_temporal()
    await asyncio.sleep(storm.dice.uniform(0, 4))
    await storm.stack.temporal.start()
    return True


async def restart_postgres(storm: Storm) -> bool:
    """Stop PostgreSQL and start it again."""
    await storm.stack.stop_postgres()
    await asyncio.sleep(storm.dice.uniform(0, 5))
    with contextlib.suppress(ChildFailedError):
        await storm.stack.start_postgres()
    return True


async def drop(storm: Storm) -> bool:
    """Close all connections to one server."""
    return storm.dice.choice(storm.proxies).drop() > 0


async def slow(storm: Storm) -> bool:
    """Let everything that goes to one server take longer."""
    return await _for_a_while(storm, lambda proxy: proxy.slow(storm.dice.uniform(0.02, 0.3)), "delay")


async def swallow(storm: Storm) -> bool:
    """Let a server fall silent."""
    return await _for_a_while(storm, lambda proxy: proxy.swallow(), "black_hole")


async def refuse(storm: Storm) -> bool:
    """Let a server be out of reach."""
    return await _for_a_while(storm, lambda proxy: proxy.refuse(), "refuse")


async def _for_a_while(storm: Storm, fault: Callable[[Proxy], None], name: str) -> bool:
    proxy = storm.dice.choice(storm.proxies)
    before = proxy.hits[name]
    fault(proxy)
    await asyncio.sleep(storm.dice.uniform(0.5, 4))
    proxy.heal()
    return proxy.hits[name] > before


async def cut_reply(storm: Storm) -> bool:
    """Lose the next reply."""
    struck = storm.dice.choice(storm.proxies).cut_reply(at_least=A_CALL)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(struck.wait(), 3)
    return struck.is_set()


STRIKES: Final[Mapping[str, Strike]] = {
    "kill -9 of a process": kill,
    "SIGTERM of a process": drain,
    "a frozen process": freeze,
    "kill -9 of Temporal": kill_temporal,
    "a restart of PostgreSQL": restart_postgres,
    "connections dropped": drop,
    "a slow network": slow,
    "a black hole": swallow,
    "a refusing server": refuse,
    "a lost reply": cut_reply,
}
