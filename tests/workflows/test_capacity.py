"""Slots are real: who finds none waits in fair order, and whoever releases one grants it to the next."""

from sqlalchemy import text

from domain.lifecycle import NodeStatus, Step
from domain.messages import NodeReady, SlotGranted
from domain.names import SignalName
from tests.workflows.node import ScriptedNode
from tests.workflows.scenes import scene
from tests.workflows.stage import Running, Stage


async def in_queue(stage: Stage, node: ScriptedNode, *, priority: int) -> Running:
    """Start a task that has to wait for a slot of this node."""
    task = await stage.start(node_labels={"node": node.id}, priority=priority)
    await task.until("waiting_for_node_capacity")
    return task


async def finish(task: Running) -> None:
    """Bring a task that has a workspace to its end."""
    await task.until("workspace_ready")
    await task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
    assert (await task.end())["status"] == "completed"


async def test_three_tasks_share_one_slot_in_order_of_priority(stage: Stage) -> None:
    """First who has the slot, then the urgent one, then the one that waited longer: each is granted by the last."""
    async with stage.node(slots=1) as node:
        holder = await stage.start(node_labels={"node": node.id})
        await holder.until("workspace_ready")
        patient = await in_queue(stage, node, priority=4)
        urgent = await in_queue(stage, node, priority=1)
        for task in (holder, urgent, patient):
            await finish(task)
        order = [order.task_id for order in node.calls["create_workspace"]]
        assert order == [holder.task, urgent.task, patient.task]
        assert await stage.used(node) == 0


async def test_age_decides_between_equals(stage: Stage) -> None:
    """First come, first served."""
    async with stage.node(slots=1) as node:
        holder = await stage.start(node_labels={"node": node.id})
        await holder.until("workspace_ready")
        queue = [await in_queue(stage, node, priority=3) for _ in range(3)]
        for task in (holder, *queue):
            await finish(task)
        assert [order.task_id for order in node.calls["create_workspace"]] == [holder.task, *(t.task for t in queue)]


async def test_one_who_gives_up_passes_the_slot_on(stage: Stage) -> None:
    """The next one gets it: a cancelled waiter is out of the queue."""
    async with stage.node(slots=1) as node:
        holder = await stage.start(node_labels={"node": node.id})
        await holder.until("workspace_ready")
        gone = await in_queue(stage, node, priority=1)
        stays = await in_queue(stage, node, priority=5)
        await gone.handle.cancel()
        assert (await gone.end())["status"] == "cancelled"
        await finish(holder)
        await finish(stays)
        assert await stage.used(node) == 0


async def test_a_grant_counts_even_when_its_signal_is_lost(stage: Stage) -> None:
    """running, after the reservation found the slot in the ledger that the wait had not heard of."""
    async with scene(stage, Step.WAITING_FOR_NODE_CAPACITY) as at:
        await stage.set_slots(at.node, 1, told=False)
        await at.task.handle.signal(SignalName.SLOT_GRANTED, SlotGranted(node_id=at.node.id))
        await at.task.until("workspace_ready")
        assert await stage.used(at.node) == 1


async def test_a_lost_slot_goes_back_to_the_choice_of_a_node(stage: Stage) -> None:
    """Back at `node_selection`, then in the queue: somebody else was faster; then granted after all."""
    async with scene(stage, Step.WAITING_FOR_NODE_CAPACITY) as at:
        # A grant that nobody made: the reservation finds no slot.
        await at.task.handle.signal(SignalName.SLOT_GRANTED, SlotGranted(node_id=at.node.id))
        query = "SELECT count(*) > 0 FROM events WHERE task_id = '{}' AND step = '{}' AND data ->> 'visit' = '2'"
        await stage.until(query.format(at.task.task, Step.WAITING_FOR_NODE_CAPACITY))
        await stage.set_slots(at.node, 1)
        await finish(at.task)
        story = await at.task.story()
        assert "step.finished(workspace_creation)" in story
        outcomes = [event.data.get("outcome") for event in await at.task.events() if event.type == "step.finished"]
        assert outcomes.count("slot_lost") == 1
        await at.assert_clean()


async def test_a_node_that_reports_in_ends_the_wait(stage: Stage) -> None:
    """On its way once the node has reported: by signal, to whoever waits for it."""
    async with scene(stage, Step.NODE_AGENT_READY) as at:
        await stage.execute("UPDATE nodes SET status = 'ready' WHERE id = :id", id=at.node.id)
        await at.task.handle.signal(SignalName.NODE_READY, NodeReady(node_id=at.node.id))
        await finish(at.task)
        await at.assert_clean()


async def test_another_nodes_report_is_not_enough(stage: Stage) -> None:
    """Still waiting."""
    async with scene(stage, Step.NODE_AGENT_READY) as at:
        await at.task.handle.signal(SignalName.NODE_READY, NodeReady(node_id="another"))
        await at.task.handle.signal(SignalName.NODE_READY, NodeReady())
        await at.task.handle.cancel()
        assert (await at.task.end())["error"]["step"] == Step.NODE_AGENT_READY


async def test_a_node_that_reported_before_the_wait_is_not_waited_for(stage: Stage) -> None:
    """On its way at once: the entry into the wait looks at the node under its lock."""
    async with stage.node(status=NodeStatus.PROVISIONING) as node, stage.database.begin("test") as connection:
        # The report is under way, uncommitted, while the attempt chooses the node.
        await connection.execute(text("UPDATE nodes SET status = 'ready' WHERE id = :id"), {"id": node.id})
        task = await stage.start(node_labels={"node": node.id})
        await stage.until("SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        await connection.commit()
        await finish(task)
        assert "step.finished(node_agent_ready)" in await task.story()


async def test_a_report_whose_node_was_taken_by_others_leads_into_the_queue(stage: Stage) -> None:
    """Waiting for a slot like everybody else, not going in circles with a stale entry; then granted."""
    async with scene(stage, Step.NODE_AGENT_READY) as at:
        await stage.execute("UPDATE nodes SET status = 'ready', slots = 0 WHERE id = :id", id=at.node.id)
        await at.task.handle.signal(SignalName.NODE_READY, NodeReady(node_id=at.node.id))
        await at.task.until("waiting_for_node_capacity")
        await stage.set_slots(at.node, 1)
        await finish(at.task)
        await at.assert_clean()
