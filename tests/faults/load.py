"""The load of the race lab: people and controllers who do everything that they may do, and some things they may not."""

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Mapping
from random import Random
from typing import Any, Final

from domain.lifecycle import RUN_TERMINAL, TERMINAL
from tests.faults import run_scenes, scenes
from tests.faults.caller import PATIENCE, Caller, RefusedError, noting
from tests.faults.quiet import look
from tests.faults.stack import FaultStack
from tests.faults.sweeps import Scene

FORGED: Final = "k1.{}.{}"
Item = Callable[[FaultStack, Caller, Random], Awaitable[None]]


async def command(stack: FaultStack, caller: Caller, dice: Random) -> None:
    """A command: short, long, failing, killing itself or the program beside it; cancelled now and then."""
    script = dice.choice(
        [
            "true",
            "true",
            "sleep 0.3",
            "sleep 3",
            "exit 3",
            "kill -9 $$",
            "kill -9 $PPID",
        ]
    )
    task = await caller.create(**noting(stack.effects, script, priority=dice.randint(1, 5)))
    await perhaps_cancel(caller, task, dice)
    if dice.random() < 0.3:
        await caller.read("pages", task, limit=dice.randint(1, 20))


async def perhaps_cancel(caller: Caller, task: str, dice: Random, *, likely: float = 0.15) -> None:
    """Cancel at a random moment, now and then, and twice."""
    if dice.random() < likely:
        await asyncio.sleep(dice.random() * 3)
        await asyncio.gather(caller.cancel(task), caller.cancel(task))


async def controller(stack: FaultStack, caller: Caller, dice: Random) -> None:  # noqa: ARG001 - an item's signature
    """An external workspace whose controller is early, late, double, false or silent."""
    behaviour = dice.choice(list(CONTROLLERS))
    body: dict[str, Any] = {"command": ["true"], "provider": "external", "priority": dice.randint(1, 5)}
    body["retry"] = {"max_attempts": 2, "backoff": 0.2}
    if behaviour == "silent":
        body |= {"timeouts": {"workspace_dispatch": 2, "workspace_ready": 2}}
    task = await caller.create(**body)
    cancelling = asyncio.ensure_future(perhaps_cancel(caller, task, dice))
    row = await caller.reaches(task, status=("delegated", "in_progress"))
    await CONTROLLERS[behaviour](caller, row, await caller.token(row["workspace_id"]), dice)
    await cancelling
    await finish(caller, task)


async def finish(caller: Caller, task: str) -> None:
    """See the task to its end, whichever attempt it is at by then; a conversation is closed."""
    while (row := await caller.show(task))["status"] not in ("completed", "failed", "cancelled"):
        if row["step"] == "awaiting_followup":
            with contextlib.suppress(RefusedError):  # it may have heard its next message
                await caller.post(f"/v1/tasks/{task}/close", {})
        elif row["workspace_id"]:
            # The attempt may end between the look and the word.
            with contextlib.suppress(RefusedError):
                token = await caller.token(row["workspace_id"])
                await caller.tell(row, "ready", token)
                await caller.tell(row, "finished", token)
        await asyncio.sleep(0.3)


async def take_over(stack: FaultStack, caller: Caller) -> None:
    """See to their end external tasks and runs that hold, if whoever drove them was scared away: nobody else will."""
    snapshot = await look(stack, caller.witness)
    orphans = [
        task
        for task, row in snapshot.tasks.items()
        if row["spec"].get("provider") == "external" and row["status"] not in TERMINAL
    ]
    held = [run for run, seen in snapshot.runs.items() if seen.row["status"] not in RUN_TERMINAL]
    ends = [*(finish(caller, task) for task in orphans), *(let_go(caller, run) for run in held)]
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.gather(*ends), PATIENCE)


async def let_go(caller: Caller, run: str) -> None:
    """See a run to its end; one that holds is let go."""
    path = f"/v1/runs/{run}"
    while (row := (await caller.send("GET", path)).json())["status"] not in RUN_TERMINAL:
        if row["paused"]:
            with contextlib.suppress(RefusedError):  # somebody else may have let it go
                await caller.post(f"{path}/resume", {"token": row["pause_token"]})
        await asyncio.sleep(0.3)


async def in_parallel(caller: Caller, row: Mapping[str, Any], token: str, dice: Random) -> None:
    """The same callback up to twenty times at once."""
    nonce = secrets.token_hex(8)
    await asyncio.gather(*(caller.tell(dict(row), "ready", token, nonce=nonce) for _ in range(dice.randint(2, 20))))


async def early(caller: Caller, row: Mapping[str, Any], token: str, dice: Random) -> None:  # noqa: ARG001
    """`finished` without `ready`, and `ready` after it."""
    await caller.tell(dict(row), "finished", token)
    await caller.tell(dict(row), "ready", token)


async def forging(caller: Caller, row: Mapping[str, Any], token: str, dice: Random) -> None:
    """Tokens that are not ours: a bit of a true one changed, none, one of another workspace's form."""
    at = dice.randrange(len(token))
    other = "A" if token[at] != "A" else "B"
    for forged in (token[:at] + other + token[at + 1 :], "-", FORGED.format("A" * 60, "B" * 43)):
        await caller.tell(dict(row), dice.choice(["ready", "failed", "finished"]), forged, ours=False)
    await caller.tell(dict(row), "ready", token)


async def contradicting(caller: Caller, row: Mapping[str, Any], token: str, dice: Random) -> None:  # noqa: ARG001
    """Two contents for one callback, at once."""
    await asyncio.gather(caller.tell(dict(row), "finished", token), caller.tell(dict(row), "finished", token))


async def stale(caller: Caller, row: Mapping[str, Any], token: str, dice: Random) -> None:  # noqa: ARG001
    """The first attempt fails; its token speaks again while the second one is at work."""
    await caller.tell(dict(row), "failed", token)
    await caller.tell(dict(row), "ready", token)
    with contextlib.suppress(AssertionError):  # it may have been cancelled
        await caller.reaches(row["id"], attempt=2, status="delegated", within=30)
    await caller.tell(dict(row), "finished", token)


async def late(caller: Caller, row: Mapping[str, Any], token: str, dice: Random) -> None:  # noqa: ARG001
    """Everything comes again when it is over."""
    await caller.tell(dict(row), "ready", token)
    await caller.tell(dict(row), "finished", token)
    with contextlib.suppress(AssertionError):
        await caller.ends(row["id"], within=30)
    for kind in ("ready", "failed", "finished"):
        await caller.tell(dict(row), kind, token)


async def silent(caller: Caller, row: Mapping[str, Any], token: str, dice: Random) -> None:  # noqa: ARG001
    """Nothing at all: the deadlines end it."""
    await caller.ends(row["id"])


Behaviour = Callable[[Caller, Mapping[str, Any], str, Random], Awaitable[None]]
CONTROLLERS: Final[Mapping[str, Behaviour]] = {
    "in parallel": in_parallel,
    "early": early,
    "forging": forging,
    "contradicting": contradicting,
    "stale": stale,
    "late": late,
    "silent": silent,
}


def of_scene(scene: Scene) -> Item:
    """Return a scene as an item: how it ends is the checker's business here."""

    async def item(stack: FaultStack, caller: Caller, dice: Random) -> None:  # noqa: ARG001
        for task in await scene(stack, caller):
            await caller.ends(task)

    return item


EVERYDAY: Final[tuple[Item, ...]] = (command, command, command, controller, controller)
OTHERS: Final[tuple[Item, ...]] = tuple(of_scene(scene) for scene in scenes.EVERYDAY + run_scenes.EVERYDAY)
