"""Scenes of nodes that come and go: joined, stopped, made when slots are missing, and given back."""

import secrets
import signal
from collections.abc import Mapping
from typing import Final

from sqlalchemy import text

from tests.faults.caller import Caller, noting
from tests.faults.stack import MADE, FaultStack
from tests.faults.sweeps import Ends, Scene, swept


async def node_restarted(stack: FaultStack, caller: Caller) -> Ends:
    """A node is drained by hand and ends, and is started again: it registers, reports in, and is heard."""
    node, keeper = next(iter(stack.nodes.items()))
    deaths = keeper.deaths
    await caller.post(f"/v1/nodes/{node}/drain")
    await keeper.after(deaths)
    return {await caller.create(**noting(stack.effects, "true")): ("completed",)}


async def node_stopped(stack: FaultStack, caller: Caller) -> Ends:
    """Nodes are told to stop while a command runs: they ask for no more tasks, and end when that one has."""
    task = await caller.create(**noting(stack.effects, "true"))
    for keeper in stack.nodes.values():
        deaths = keeper.deaths
        keeper.send(signal.SIGTERM)
        await keeper.after(deaths)
    return {task: ("completed",)}


async def made(stack: FaultStack, caller: Caller) -> Ends:
    """A task for which a node is made: earlier ones are not there any more."""
    async with stack.database.begin("tests.unmake") as connection:
        await connection.execute(text("UPDATE nodes SET status = 'gone' WHERE provider IS NOT NULL AND used = 0"))
    return {await caller.create(**noting(stack.effects, "true", node_labels=MADE)): ("completed",)}


async def given_back(stack: FaultStack, caller: Caller) -> Ends:
    """A made node has been idle for long, another one never came, one is lost, and a machine is nobody's."""
    ends = await made(stack, caller)
    for task in ends:
        await caller.ends(task)
    nonce = secrets.token_hex(4)
    (stack.machines / f"made-unknown-{nonce}").mkdir(parents=True)
    async with stack.database.begin("tests.long_ago") as connection:
        idle = "UPDATE nodes SET idle_since = now() - interval '1 hour' WHERE provider IS NOT NULL AND used = 0"
        await connection.execute(text(idle))
        insert = text(
            "INSERT INTO nodes (id, status, slots, labels, provider, created_at)"
            " VALUES (:id, :status, 0, '{}', 'process', now() - interval '1 hour')"
        )
        for status in ("provisioning", "lost"):
            await connection.execute(insert, {"id": f"made-{status}-{nonce}", "status": status})
    return await swept(stack, caller, ends)


SCENE_OF: Final[Mapping[str, Scene]] = {
    "nodes.drain": node_restarted,
    "api.register": node_restarted,
    "api.report": node_restarted,
    "api.drain": node_stopped,
    "fleet.": given_back,
    "fleet.provide": made,
    "fleet.give_token": made,
    "machines.": given_back,
    "machines.find": made,
    "machines.create": made,
}
