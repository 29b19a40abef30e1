"""What a sweep does about nodes that were made, and what an attempt's call for one comes to."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from activities.fleet import Fleet
from domain.errors import Category, Failure
from domain.ids import new_id
from domain.lifecycle import NodeStatus
from domain.messages import MakeNode
from domain.names import NodeId
from domain.provisioning import NodeProvider, Provisioning
from domain.reconcile import Action, Report
from store import keys, nodes
from store.engine import Database
from workspaces.machines import Joining, MachineProvider

WITHIN = timedelta(minutes=15)


@dataclass
class Machines(MachineProvider):
    """A provider that keeps its machines in memory."""

    there: dict[NodeId, Joining | None] = field(default_factory=dict)
    remains: set[NodeId] = field(default_factory=set)
    away: bool = False

    async def create(self, joining: Joining) -> None:
        if self.away:
            raise OSError(5, "no machine to be had")
        if joining.node_id in self.remains:
            self.remains.remove(joining.node_id)
            del self.there[joining.node_id]
        self.there.setdefault(joining.node_id, joining)

    async def find_by_tag(self, tag: NodeId) -> bool:
        return tag in self.there and tag not in self.remains

    async def destroy(self, tag: NodeId) -> None:
        self.there.pop(tag, None)

    async def list(self) -> list[NodeId]:
        return sorted(self.there)


@dataclass
class Place:
    """A database without nodes, and a fleet."""

    database: Database
    machines: Machines
    fleet: Fleet

    async def node(self, status: str, *, age: float = 0, idle: float | None = None, there: bool = True) -> NodeId:
        """Write a made node's row; times in minutes."""
        node = NodeId(f"made-{new_id()}")
        row: dict[str, Any] = {"id": node, "status": status, "age": timedelta(minutes=age)}
        row["idle"] = None if idle is None else timedelta(minutes=idle)
        async with self.database.begin("test") as connection:
            await connection.execute(
                text(
                    "INSERT INTO nodes (id, status, slots, labels, provider, created_at, idle_since)"
                    " VALUES (:id, :status, 2, '{\"a\": \"b\"}', 'process', clock_timestamp() - CAST(:age AS interval),"
                    " clock_timestamp() - CAST(:idle AS interval))"
                ),
                row,
            )
        if there:
            self.machines.there[node] = None
        return node

    async def status(self, node: NodeId) -> str:
        async with self.database.read() as connection:
            return str(
                (await connection.execute(text("SELECT status FROM nodes WHERE id = :id"), {"id": node})).scalar()
            )

    async def tended(self, *, dry_run: bool = False) -> dict[Action, list[str]]:
        report = Report(dry_run=dry_run)
        await self.fleet.tend(report)
        return report.ids


@pytest.fixture
async def place(database_url: str) -> AsyncIterator[Place]:
    """Give a place of its own."""
    database, machines = Database(database_url, pool=3), Machines()
    async with database.begin("test") as connection:
        await connection.execute(text("DELETE FROM nodes"))
    policy = Provisioning(provider=NodeProvider.PROCESS)
    yield Place(database, machines, Fleet(database, machines, policy=policy, within=WITHIN))
    await database.close()


@pytest.mark.parametrize(
    ("row", "does", "becomes"),
    [
        (("provisioning", 0.5, None, False), None, "provisioning"),
        (("provisioning", 2, None, True), None, "provisioning"),
        (("provisioning", 2, None, False), Action.NODE_MADE, "provisioning"),
        (("provisioning", 16, None, True), Action.NODE_DESTROYED, "gone"),
        (("provisioning", 16, None, False), Action.NODE_DESTROYED, "gone"),
        (("ready", 60, None, True), None, "ready"),
        (("ready", 60, 29, True), None, "ready"),
        (("ready", 60, 31, True), Action.NODE_DESTROYED, "gone"),
        (("warm", 60, 31, True), Action.NODE_DESTROYED, "gone"),
        (("draining", 60, None, True), None, "draining"),
        (("lost", 60, None, True), Action.NODE_DESTROYED, "gone"),
        (("gone", 60, None, True), Action.NODE_DESTROYED, "gone"),
        (("gone", 60, None, False), None, "gone"),
    ],
)
async def test_a_sweep_by_status(
    place: Place, row: tuple[str, float, float | None, bool], does: Action | None, becomes: str
) -> None:
    """What was noted only is made, what never came, is idle, lost or gone is taken away; a dry run says the same."""
    status, age, idle, there = row
    node = await place.node(status, age=age, idle=idle, there=there)
    expected = {does: [node]} if does else {}
    before = dict(place.machines.there)
    assert await place.tended(dry_run=True) == expected
    assert (place.machines.there, await place.status(node)) == (before, status)
    assert await place.tended() == expected
    assert await place.status(node) == becomes
    assert (node in place.machines.there) is (does is Action.NODE_MADE or (there and not does))
    if does is not Action.NODE_MADE:
        assert await place.tended() == {}


async def test_a_machine_that_died_before_it_came_up_is_made_again(place: Place) -> None:
    """Something of it is left, so it is listed; nobody else would make it while its row is waited for."""
    node = await place.node("provisioning", age=2)
    place.machines.remains.add(node)
    for dry_run in (True, False):
        assert await place.tended(dry_run=dry_run) == {Action.NODE_MADE: [node]}
    assert place.machines.there[node] is not None
    assert await place.tended() == {}


async def test_one_that_cannot_be_made_keeps_nobody_from_his_turn(place: Place) -> None:
    """Counted as failed; the next row is looked at, and this one by the next sweep."""
    never, idle = await place.node("provisioning", age=2, there=False), await place.node("ready", idle=31)
    place.machines.away = True
    report = Report()
    await place.fleet.tend(report)
    assert (report.counts[Action.FAILED], report.ids[Action.NODE_DESTROYED]) == (1, [idle])
    place.machines.away = False
    assert await place.tended() == {Action.NODE_MADE: [never]}


@pytest.mark.parametrize("call", ["list", "destroy"])
async def test_a_provider_that_is_away_does_not_stop_the_sweep(
    place: Place, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted as failed; what it could not do is done by the next sweep."""
    place.machines.there[NodeId("made-unknown")] = None

    async def away(*_: object) -> list[NodeId]:
        raise OSError(5, "the provider is away")

    report = Report()
    with monkeypatch.context() as patched:
        patched.setattr(place.machines, call, away)
        await place.fleet.tend(report)
    assert report.counts[Action.FAILED] == 1
    assert await place.tended() == {Action.NODE_DESTROYED: ["made-unknown"]}


async def test_a_lost_node_that_came_back_while_others_were_taken_away_stays(place: Place) -> None:
    """Its row is looked at again when it has its turn: it may have reported in since, and be at work."""
    first, second = sorted([await place.node("lost"), await place.node("lost")])
    destroy = place.machines.destroy

    async def slow(tag: NodeId) -> None:
        await destroy(tag)
        async with place.database.begin("test") as connection:
            await nodes.report(connection, second)

    place.machines.destroy = slow  # type: ignore[method-assign]
    assert await place.tended() == {Action.NODE_DESTROYED: [first]}
    assert (await place.status(first), await place.status(second)) == ("gone", "ready")
    assert second in place.machines.there


async def test_a_machine_that_no_row_knows_is_taken_away(place: Place) -> None:
    """Also of a node of that name that joined by itself."""
    place.machines.there[NodeId("made-unknown")] = None
    assert await place.tended() == {Action.NODE_DESTROYED: ["made-unknown"]}
    assert place.machines.there == {}


async def test_a_call_makes_the_node_with_a_token_of_its_own(place: Place) -> None:
    """Slots and labels of its row; the token's hash is known, for that node. Again it is found, and gets no other."""
    node = await place.node("provisioning", there=False)
    assert (await place.fleet.make_node(MakeNode(node_id=node))).made is True
    joining = place.machines.there[node]
    assert joining is not None
    assert (joining.slots, joining.labels) == (2, {"a": "b"})
    async with place.database.read() as connection:
        known = await keys.find(connection, keys.sha256_of(joining.token))
    assert known is not None
    assert known["node_id"] == node
    assert (await place.fleet.make_node(MakeNode(node_id=node))).made is False
    assert place.machines.there[node] is joining


@pytest.mark.parametrize("status", ["ready", "gone"])
async def test_a_call_that_comes_late_makes_nothing(place: Place, status: str) -> None:
    """It has come up, or was given up, meanwhile."""
    node = await place.node(status, there=False)
    assert (await place.fleet.make_node(MakeNode(node_id=node))).made is False
    assert place.machines.there == {}


async def test_a_provider_that_fails_is_a_failure_of_provisioning(place: Place) -> None:
    """Transient: it is tried again; nobody to ask is for good."""
    node = await place.node(NodeStatus.PROVISIONING, there=False)
    place.machines.away = True
    with pytest.raises(Failure) as failed:
        await place.fleet.make_node(MakeNode(node_id=node))
    assert (failed.value.error.code, failed.value.error.category) == ("node_not_made", Category.PROVISIONING)
    assert failed.value.error.retryable
    nobody = Fleet(place.database, None, policy=Provisioning(), within=WITHIN)
    with pytest.raises(Failure) as failed:
        await nobody.make_node(MakeNode(node_id=node))
    assert (failed.value.error.code, failed.value.error.retryable) == ("no_node_provider", False)
    # The next one who finds no slot is not sent to a node that nobody will ever make.
    assert await place.status(node) == "gone"
