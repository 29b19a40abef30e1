"""Placement's adapter: where an attempt works."""

from typing import Final

from temporalio import activity

from activities.dispatch import Dispatcher
from domain.messages import (
    Answer,
    NodeChoice,
    NodeQuery,
    NodeWait,
    NodeWaitAnswer,
    Reservation,
    ReservationAnswer,
    SlotWait,
    SlotWaitAnswer,
)
from domain.provisioning import NodeProvider, Provisioning
from domain.spec import PRIORITY_DEFAULT, Provider
from store import fleet, mirror, placement
from store.engine import Database
from workflows.ports import PlacementActivities

NOBODY: Final = Provisioning()


class Placement(PlacementActivities):
    """Chooses nodes and reserves slots in PostgreSQL."""

    def __init__(self, database: Database, dispatcher: Dispatcher, provisioning: Provisioning = NOBODY) -> None:
        self._database = database
        self._dispatcher = dispatcher
        self._provisioning = provisioning

    @activity.defn
    async def select_node(self, query: NodeQuery) -> NodeChoice:
        """Choose a node with a free slot, or one that is to be made, where the policy says so and slots are missing."""
        async with self._database.read() as connection:
            choice = await placement.select_node(connection, query)
        found = choice.node_id is not None and choice.reported_in
        policy = self._provisioning
        wanted = query.provider is Provider.LOCAL and query.labels == policy.labels
        if found or query.pinned or policy.provider is NodeProvider.NONE or not wanted:
            return choice
        async with self._database.commit("fleet.provide") as connection:
            node = await fleet.provide(connection, query.task_id, policy)
        return NodeChoice(node_id=node, reported_in=False, reason="to be made", made=True) if node else choice

    @activity.defn
    async def wait_for_slot(self, wait: SlotWait) -> SlotWaitAnswer:
        """Enter the queue of waiters."""
        async with self._database.commit("placement.wait_for_slot") as connection:
            answer = await mirror.wait_for_slot(
                connection,
                wait.flush,
                priority=wait.query.priority,
                labels=wait.query.labels,
                pinned=wait.query.pinned,
            )
        self._dispatcher.grown(wait.flush.task_id, answer.get("appended"))
        self._dispatcher.poke()
        return SlotWaitAnswer(answer=Answer.model_validate(answer), granted=answer.get("granted"))

    @activity.defn
    async def wait_for_node(self, wait: NodeWait) -> NodeWaitAnswer:
        """Enter the queue of waiters; a slot elsewhere may come before the node's report."""
        async with self._database.commit("placement.wait_for_node") as connection:
            answer = await mirror.wait_for_slot(
                connection,
                wait.flush,
                priority=wait.query.priority if wait.query else PRIORITY_DEFAULT,
                labels=wait.query.labels if wait.query else {},
                pinned=wait.query.pinned if wait.query else wait.node_id,
                awaits=wait.node_id,
            )
        self._dispatcher.grown(wait.flush.task_id, answer.get("appended"))
        self._dispatcher.poke()
        return NodeWaitAnswer(
            answer=Answer.model_validate(answer),
            reported_in=answer.get("reported_in", False),
            gone=answer.get("gone", False),
            granted=answer.get("granted"),
        )

    @activity.defn
    async def reserve_workspace(self, reservation: Reservation) -> ReservationAnswer:
        """Reserve slot and workspace."""
        async with self._database.commit("placement.reserve_workspace") as connection:
            answer = await mirror.reserve(
                connection,
                reservation.flush,
                workspace=reservation.workspace_id,
                visit=reservation.visit,
                provider=reservation.provider,
                node=reservation.node_id,
            )
        self._dispatcher.grown(reservation.flush.task_id, answer.get("appended"))
        return ReservationAnswer(
            answer=Answer.model_validate(answer), workspace_id=answer["workspace_id"], node_id=answer.get("node_id")
        )
