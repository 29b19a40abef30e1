"""Who goes first on the whole way: the engine's queues by priority and project, and slots by the order of the queue."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any, ClassVar, Final

import pytest
from temporalio import activity, workflow
from temporalio.common import Priority
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from domain.ids import new_id
from domain.lifecycle import Step
from domain.messages import AgentOrder, WorkspaceOrder
from domain.names import TASK_RUNNER, ProjectId, SignalName, TaskId, workflow_id
from domain.runner import RunnerInput
from domain.spec import TaskSpec
from tests.store import witness
from tests.workflows.node import ScriptedNode
from tests.workflows.scenes import scene
from tests.workflows.stage import PATIENCE, Running, Stage
from tests.workflows.test_cleanup import ended, released
from tests.workflows.test_fencing import mortal
from workflows.gateway import Gateway, Sent

LARGE, SMALL = ProjectId("large"), ProjectId("small")
EFFECTS: Final = ("create_workspace", "transfer_attachment", "start_agent", "supervise_agent", "destroy_workspace")


@pytest.fixture(scope="module", autouse=True)
async def _watched(bare_stage: Stage) -> None:
    await witness.install(bare_stage.database)


# --- what the engine is told ------------------------------------------------------------------------------------------


def note_priorities(node: ScriptedNode) -> dict[str, Priority]:
    """Note what each effect on a node was ordered by."""
    seen: dict[str, Priority] = {}

    def note(name: str) -> Any:
        async def noting(_: Any) -> None:
            seen[name] = activity.info().priority

        return noting

    node.script.update({name: note(name) for name in EFFECTS})
    return seen


async def test_every_queue_is_told_priority_and_project(bare_stage: Stage) -> None:
    """What a node is asked, supervision included, is ordered by the task's priority and its project."""
    async with bare_stage.worker(), bare_stage.node() as node:
        seen = note_priorities(node)
        body: dict[str, Any] = {"node_labels": {"node": node.id}, "priority": 2, "attachments": ["notes"]}
        task = await bare_stage.start(project=LARGE, **body)
        await task.until("workspace_ready")
        await task.signal(SignalName.WORKSPACE_READY)
        await task.until("running")
        async with asyncio.timeout(20):
            while "supervise_agent" not in seen:  # noqa: ASYNC110 - it is in a worker of its own
                await asyncio.sleep(0.02)
        await task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
        assert (await task.end())["status"] == "completed"
    assert seen == dict.fromkeys(EFFECTS, Priority(priority_key=2, fairness_key=LARGE))


async def test_what_a_cleanup_releases_is_waited_for(bare_stage: Stage) -> None:
    """A Cleanup goes before all work, whatever its task's priority was, and shares by project."""
    async with bare_stage.worker(), scene(bare_stage, Step.WORKSPACE_READY, priority=5) as at:
        seen = note_priorities(at.node)
        await ended(at.task)
        await released(at.task)
    assert seen == {"destroy_workspace": Priority(priority_key=1, fairness_key="default")}


# --- what the engine makes of it --------------------------------------------------------------------------------------


@workflow.defn(name=TASK_RUNNER, sandboxed=False)
class Beginning:
    """Notes that it has begun, and ends."""

    order: ClassVar[list[str]] = []

    @workflow.run
    async def run(self, _: RunnerInput) -> None:
        self.order.append(workflow.info().workflow_id)


async def begun(temporal: WorkflowEnvironment, claims: Sequence[tuple[int, ProjectId]]) -> list[int]:
    """Start an attempt for each claim, then let a worker begin them; returns their numbers in the order of their begin.

    What begins is a workflow of the test's own: the engine knows nothing of ours but name, queue and claim.
    """
    queue = f"order-{new_id()}"
    client = temporal.client
    gateway = Gateway(client, queue=queue)
    arguments = [
        RunnerInput(
            task_id=TaskId(new_id()),
            attempt=1,
            project=project,
            name="t",
            spec=TaskSpec(command=["true"], priority=priority),
        )
        for priority, project in claims
    ]
    names = [workflow_id(argument.task_id, 1) for argument in arguments]
    for start in range(0, len(arguments), 10):  # what is started together comes in any order
        assert {*await asyncio.gather(*map(gateway.start, arguments[start : start + 10]))} == {Sent.DELIVERED}
    # One workflow task at a time.
    worker = Worker(
        client, task_queue=queue, workflows=[Beginning], max_cached_workflows=0, max_concurrent_workflow_tasks=1
    )
    async with worker, asyncio.timeout(PATIENCE):
        await asyncio.gather(*(client.get_workflow_handle(name).result() for name in names))
    return [names.index(name) for name in Beginning.order if name in names]


async def test_a_small_project_passes_a_flood_in_the_engine(temporal: WorkflowEnvironment) -> None:
    """10 attempts that were started after 190 of another project begin among the first 30, not after them."""
    order = await begun(temporal, [(3, LARGE)] * 190 + [(3, SMALL)] * 10)
    assert (len(order), max(order.index(number) for number in range(190, 200)) < 30) == (200, True)


async def test_the_engine_begins_the_more_urgent_first(temporal: WorkflowEnvironment) -> None:
    """200 attempts of five priorities: no inversion."""
    chance = random.Random(7)  # noqa: S311 - reproducible, not secret
    priorities = [chance.randint(1, 5) for _ in range(200)]
    served = [priorities[number] for number in await begun(temporal, [(each, LARGE) for each in priorities])]
    assert served == sorted(priorities)


# --- the whole way ----------------------------------------------------------------------------------------------------


def works_at_once(stage: Stage, node: ScriptedNode) -> None:
    """Have each workspace be ready as soon as it is made, and each command end as soon as it has begun."""

    async def made(order: WorkspaceOrder) -> None:
        await Running(stage, order.task_id).signal(SignalName.WORKSPACE_READY)

    async def begun(order: AgentOrder) -> None:
        await Running(stage, order.order.task_id).signal(SignalName.WORKSPACE_FINISHED, exit_code=0)

    node.script.update(create_workspace=made, start_agent=begun)


async def crowd(stage: Stage, node: ScriptedNode) -> list[Running]:
    """Start 60 tasks of two projects and three priorities for a node, in no order."""
    chance, tasks = random.Random(8), []  # noqa: S311 - reproducible, not secret
    for number in range(60):
        project, priority = (SMALL if number % 6 == 5 else LARGE), chance.randint(2, 4)
        tasks.append(Running(stage, await stage.create(project=project, priority=priority, **on(node))))
    for task in chance.sample(tasks, len(tasks)):
        await stage.begin(task, priority=(await task.row())["priority"], **on(node))
    return tasks


def on(node: ScriptedNode) -> dict[str, Any]:
    """What a task asks for that is to run there."""
    return {"node_labels": {"node": node.id}}


async def assert_in_order(stage: Stage, node: ScriptedNode, tasks: list[Running]) -> None:
    """All are completed, each had one slot, and nobody passed one who was waiting with a better claim."""
    assert {(await task.end())["status"] for task in tasks} == {"completed"}
    grants = await witness.grants(stage.database, [task.task for task in tasks])
    assert (len(grants), witness.by_priority(grants), witness.by_age(grants)) == (60, 0, 0)
    assert sum(bool(grant.waiting) for grant in grants) > 30  # or nobody could have been passed
    assert (await stage.used(node), node.workspaces) == (0, set())


async def test_whole_tasks_get_their_slots_in_order(bare_stage: Stage) -> None:
    """60 tasks on 3 slots: no inversion by priority, none by age."""
    async with bare_stage.node(slots=3) as node:
        works_at_once(bare_stage, node)
        async with bare_stage.worker(max_cached_workflows=1000):
            await assert_in_order(bare_stage, node, await crowd(bare_stage, node))


async def test_a_worker_that_is_killed_changes_no_order(bare_stage: Stage, temporal_address: str) -> None:
    """The same when `kill -9` strikes a worker within the queue, and another one at an end."""
    async with bare_stage.node(slots=3) as node:
        works_at_once(bare_stage, node)
        tasks = await crowd(bare_stage, node)
        for call, times in (("wait_for_slot", 20), ("conclude", 3)):
            async with (
                mortal(bare_stage, temporal_address, call, times, cached=1000) as process,
                asyncio.timeout(PATIENCE),
            ):
                assert await process.wait() == -9
        async with bare_stage.worker(max_cached_workflows=1000):
            await assert_in_order(bare_stage, node, tasks)
