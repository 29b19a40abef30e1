"""Nodes that are made: asked for by an attempt that finds no slot, and looked after by every sweep."""

import contextlib
import secrets
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Final

import structlog
from temporalio import activity

from domain.errors import Category, Failure
from domain.failpoints import boundary
from domain.lifecycle import NodeStatus
from domain.messages import MakeNode, NodeMade
from domain.names import NodeId
from domain.provisioning import Provisioning
from domain.reconcile import Action, Report
from store import fleet, keys
from store.engine import Database
from store.fleet import Made
from workflows.ports import FleetActivities
from workspaces.machines import Joining, MachineProvider

log = structlog.get_logger()

# An attempt that asks for a node makes it itself, unless it ends before.
ITS_OWN: Final = timedelta(minutes=1)


class Fleet(FleetActivities):
    """Makes nodes by the policy with the provider that it names; without one it has none to make."""

    def __init__(
        self, database: Database, machines: MachineProvider | None, *, policy: Provisioning, within: timedelta
    ) -> None:
        self._database = database
        self._machines = machines
        self._policy = policy
        self._within = within

    @activity.defn
    async def make_node(self, order: MakeNode) -> NodeMade:
        """Make the node whose row is there; one that was made, or is given up by now, is left as it is."""
        async with self._database.read() as connection:
            row = await fleet.one(connection, order.node_id)
        if row is None or row.status is not NodeStatus.PROVISIONING:
            return NodeMade(node_id=order.node_id, made=False)
        if self._machines is None:
            await self._given_up(row)
            raise Failure(
                "no_node_provider",
                "Nobody makes nodes here any more.",
                category=Category.PROVISIONING,
                guidance="Set TASKRUNNER_PROVISIONING__PROVIDER, or let a machine join.",
            )
        try:
            return NodeMade(node_id=order.node_id, made=await self._make(self._machines, row))
        except OSError as error:
            raise Failure(
                "node_not_made",
                f"The provider {self._policy.provider} did not make a node: {error.strerror or type(error).__name__}.",
                category=Category.PROVISIONING,
                transient=True,
            ) from error

    async def tend(self, report: Report) -> None:
        """Make what was only noted, end what is idle or never came, and take away what nobody knows.

        What the provider does not do now, the next sweep has it do.
        """
        machines = self._machines
        if machines is None:
            return
        there: Sequence[NodeId] | None = None
        with _patient(report), boundary("machines.list"):
            there = await machines.list()
        if there is None:
            return
        async with self._database.read() as connection:
            rows = await fleet.made(connection, self._policy.provider, there)
        for row in rows:
            with _patient(report, row.id):
                await self._look_at(machines, row, there, report)
        for tag in sorted(set(there) - {row.id for row in rows}):
            report.note(Action.NODE_DESTROYED, tag)
            if not report.dry_run:
                with _patient(report, tag), boundary("machines.destroy_unknown"):
                    await machines.destroy(tag)

    async def _look_at(self, machines: MachineProvider, row: Made, there: Sequence[NodeId], report: Report) -> None:
        over = False
        if row.status is NodeStatus.PROVISIONING and row.age > self._within:
            over = report.dry_run or await self._given_up(row)
        elif row.status is NodeStatus.PROVISIONING and row.age > ITS_OWN:
            # Also one that died before it came up, of which something is left.
            if not await self._comes_up(machines, row.id):
                report.note(Action.NODE_MADE, row.id)
                if not report.dry_run:
                    await self._make(machines, row)
        elif row.status is NodeStatus.LOST:
            over = report.dry_run or await self._removed(row)
        elif row.idle_for is not None and row.idle_for > self._policy.keep_warm:
            over = report.dry_run or await self._retired(row)
        if over or (row.status is NodeStatus.GONE and row.id in there):
            report.note(Action.NODE_DESTROYED, row.id)
            if not report.dry_run:
                await self._destroy(machines, row)

    async def _make(self, machines: MachineProvider, row: Made) -> bool:
        """Make a machine with a token of its own; False when there is one."""
        if await self._comes_up(machines, row.id):
            return False
        token = f"tr_{secrets.token_urlsafe(32)}"
        async with self._database.begin("fleet.give_token") as connection:
            await fleet.give_token(connection, row.id, keys.sha256_of(token))
        with boundary("machines.create"):
            await machines.create(Joining(node_id=row.id, slots=row.slots, labels=row.labels, token=token))
        log.info("node.made", node=row.id, provider=self._policy.provider)
        return True

    async def _comes_up(self, machines: MachineProvider, node: NodeId) -> bool:
        with boundary("machines.find"):
            return await machines.find_by_tag(node)

    async def _given_up(self, row: Made) -> bool:
        async with self._database.commit("fleet.give_up") as connection:
            return await fleet.give_up(connection, row.id)

    async def _retired(self, row: Made) -> bool:
        async with self._database.commit("fleet.retire") as connection:
            return await fleet.retire(connection, row.id, idle=self._policy.keep_warm)

    async def _removed(self, row: Made) -> bool:
        async with self._database.begin("fleet.remove") as connection:
            return await fleet.abandon(connection, row.id)

    async def _destroy(self, machines: MachineProvider, row: Made) -> None:
        """Take its tokens, then the machine: what it does meanwhile is refused."""
        async with self._database.commit("fleet.revoke_tokens") as connection:
            await fleet.revoke_tokens(connection, row.id)
        with boundary("machines.destroy"):
            await machines.destroy(row.id)
        log.info("node.destroyed", node=row.id, provider=self._policy.provider)


@contextlib.contextmanager
def _patient(report: Report, node: NodeId | None = None) -> Iterator[None]:
    """Tell in the report what the provider did not do; it keeps nothing else from its turn."""
    try:
        yield
    except OSError as error:
        report.note(Action.FAILED, count=1)
        log.warning("node.not_tended", node=node, error=str(error))
