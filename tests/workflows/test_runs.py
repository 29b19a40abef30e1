"""Runs of graphs, on the real control worker with real PostgreSQL and Temporal."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from temporalio.testing import WorkflowEnvironment

from tests.workflows.run_stage import RunStage, run_stage_on


@pytest.fixture(scope="module")
async def stage(temporal: WorkflowEnvironment, database_url: str) -> AsyncIterator[RunStage]:
    """Give a control plane with a node."""
    async with run_stage_on(temporal, database_url) as stage:
        yield stage


@pytest.fixture(autouse=True)
def _fresh(stage: RunStage) -> None:
    stage.exits, stage.results, stage.held, stage.begun, stage.most_at_once = {}, {}, {}, [], 0


async def test_a_diamond_completes_in_order(stage: RunStage) -> None:
    """Completed, with all four members; each began after its upstreams had ended."""
    run = await stage.create({"a": {}, "b": {}, "c": {}, "d": {}}, "a>b a>c b>d c>d")
    row = await run.end()
    assert (row["status"], await run.members()) == ("completed", dict.fromkeys("abcd", "completed"))
    assert stage.begun[0] == "a"
    assert stage.begun[-1] == "d"


async def test_one_that_fails_skips_what_depends_on_it(stage: RunStage) -> None:
    """Failed; what depends on the failed member is skipped, the other branch runs, and a handler of the failure too."""
    stage.exits = {"b": 3}
    run = await stage.create({"a": {}, "b": {}, "c": {}, "d": {}, "mend": {}}, "a>b a>c b>d b>mend:failed")
    row = await run.end()
    assert row["status"] == "failed"
    assert await run.members() == {
        "a": "completed",
        "b": "failed",
        "c": "completed",
        "d": "skipped",
        "mend": "completed",
    }
    assert row["error"]["code"] == "member_failed"
    assert row["error"]["context"]["member"] == "b"


async def test_a_fan_out_aggregates_when_every_part_has_ended(stage: RunStage) -> None:
    """Three children with their items, two at once; their results, in order, are what the next member gets."""
    stage.results = {f"shard#{n}": {"n": n} for n in (1, 2, 3)}
    run = await stage.create(
        {"shard": {"fan_out": {"items": ["x", "y", "z"], "max_parallel": 2}}, "sum": {}}, "shard>sum"
    )
    row = await run.end()
    assert row["status"] == "completed"
    assert [stage.inputs[f"shard#{n}"] for n in (1, 2, 3)] == [
        {"index": n, "item": item} for n, item in enumerate("xyz", 1)
    ]
    expected = {"member": "shard", "outcome": "completed", "result": [{"n": 1}, {"n": 2}, {"n": 3}]}
    assert stage.inputs["sum"] == {"upstream": [expected]}
    assert stage.most_at_once <= 2


async def test_a_list_in_a_result_says_how_far_to_fan_out(stage: RunStage) -> None:
    """One child for each item of the upstream's list; none at all completes the member too."""
    stage.results = {"list": {"files": ["a.csv", "b.csv"]}, "none": {"files": []}}
    run = await stage.create(
        {
            "list": {},
            "none": {},
            "clean": {"fan_out": {"items_from": "list#/files"}},
            "idle": {"fan_out": {"items_from": "none#/files"}},
            "sum": {},
        },
        "idle>sum",
    )
    assert (await run.end())["status"] == "completed"
    assert sorted(await run.tasks()) == ["clean#1", "clean#2", "list", "none", "sum"]
    assert stage.inputs["sum"]["upstream"] == [{"member": "idle", "outcome": "completed", "result": []}]
    assert stage.inputs["clean#2"]["item"] == "b.csv"


async def test_a_result_without_the_list_fails_the_fan_out(stage: RunStage) -> None:
    """Failed, with the place named."""
    run = await stage.create({"list": {}, "clean": {"fan_out": {"items_from": "list#/files"}}})
    assert (await run.end())["status"] == "failed"
    assert await run.members() == {"list": "completed", "clean": "failed"}


async def test_a_condition_on_a_result_chooses_the_way(stage: RunStage) -> None:
    """The member whose condition holds runs, the other is skipped."""
    stage.results = {"test": {"coverage": 0.93}}
    when = {"pointer": "/coverage", "op": "ge", "value": 0.9}
    less = {"pointer": "/coverage", "op": "lt", "value": 0.9}
    run = await stage.create(
        {"test": {}, "publish": {}, "complain": {}},
        more_edges=[{"from": "test", "to": "publish", "when": when}, {"from": "test", "to": "complain", "when": less}],
    )
    assert (await run.end())["status"] == "completed"
    assert await run.members() == {"test": "completed", "publish": "completed", "complain": "skipped"}


async def test_fail_fast_cancels_what_is_open(stage: RunStage) -> None:
    """Failed; the open task is cancelled, what has not begun is skipped, a `finished` edge is obeyed."""
    stage.exits, stage.held = {"a": 1}, {"slow": asyncio.Event()}
    run = await stage.create(
        {"a": {}, "slow": {}, "later": {}, "tidy": {}}, "slow>later slow>tidy:finished", on_failure="fail_fast"
    )
    row = await run.end()
    assert row["status"] == "failed"
    assert await run.members() == {"a": "failed", "slow": "cancelled", "later": "skipped", "tidy": "completed"}


async def test_no_more_than_so_many_at_once(stage: RunStage) -> None:
    """Never more than `max_parallel` of the whole run."""
    run = await stage.create({f"m{n}": {} for n in range(8)}, max_parallel=3)
    assert (await run.end())["status"] == "completed"
    assert stage.most_at_once <= 3


async def test_supersteps_merge_state_at_their_barriers(stage: RunStage) -> None:
    """Each frontier sees the state of the barrier before it; the report says what ran, and what follows."""
    stage.results = {"a": {"state": {"total": 1, "log": ["a"]}}, "b": {"state": {"total": 2, "log": ["b"]}}}
    run = await stage.create(
        {"a": {}, "b": {}, "c": {}},
        "a>c b>c",
        mode="superstep",
        state={"total": 0},
        reducers={"total": "sum", "log": "append"},
    )
    row = await run.end()
    assert row["status"] == "completed"
    assert row["state"] == {"total": 3, "log": ["a", "b"]}
    assert stage.inputs["c"]["state"] == row["state"]
    steps = [event["data"] for event in await run.events() if event["type"] == "run.superstep"]
    assert [(step["ran"], step["next_frontier"]) for step in steps] == [(["a", "b"], ["c"]), (["c"], [])]


async def test_a_result_may_extend_the_graph(stage: RunStage) -> None:
    """A command appends members, and replaces the next frontier."""
    stage.results = {"plan": {"commands": {"append": {"members": [{"name": "new", "task": {"command": ["true"]}}]}}}}
    label = {"node": stage.node.id}
    stage.results["plan"]["commands"]["append"]["members"][0]["task"]["node_labels"] = label
    run = await stage.create({"plan": {}, "old": {}}, "plan>old", mode="superstep")
    row = await run.end()
    assert row["status"] == "completed"
    assert await run.members() == {"plan": "completed", "old": "completed", "new": "completed"}


async def test_the_error_of_a_run_says_where_it_was_when_its_first_member_failed(stage: RunStage) -> None:
    """The member, its frontier and the state's versions at that moment, whatever came afterwards."""
    stage.results = {"a": {"state": {"n": 1}}, "c": {"state": {"n": 2}}}
    stage.exits = {"b": 1}
    run = await stage.create({"a": {}, "b": {}, "c": {}}, "a>b b>c:finished", mode="superstep", state={"n": 0})
    row = await run.end()
    assert (row["status"], row["state_versions"]) == ("failed", {"n": 3})
    assert row["error"]["context"] == {"member": "b", "frontier": ["b"], "state_versions": {"n": 2}}
    assert await run.members() == {"a": "completed", "b": "failed", "c": "completed"}


async def test_a_bad_command_fails_the_run_with_its_context(stage: RunStage) -> None:
    """Failed; the error names the member, the frontier and what is wrong."""
    edge = {"from": "next", "to": "plan"}
    stage.results = {"plan": {"commands": {"append": {"edges": [edge]}}}}
    run = await stage.create({"plan": {}, "next": {}}, "plan>next", mode="superstep")
    row = await run.end()
    assert row["status"] == "failed"
    assert row["error"]["code"] == "bad_command"
    assert row["error"]["context"]["member"] == "plan"
    assert row["error"]["context"]["frontier"] == ["plan"]
    assert await run.members() == {"plan": "completed", "next": "skipped"}


@pytest.mark.parametrize(
    ("appended", "edges"),
    [
        pytest.param(["new"], [{"from": "plan", "to": "new", "when": {"pointer": "/ok", "value": True}}], id="judged"),
        pytest.param(
            ["mend", "new"],
            [{"from": "plan", "to": "mend", "when": "failed"}, {"from": "mend", "to": "new", "when": "finished"}],
            id="skipped",
        ),
    ],
)
async def test_what_a_command_adds_may_have_to_be_judged_first(
    stage: RunStage, appended: list[str], edges: list[dict[str, Any]]
) -> None:
    """Completed: the frontier after the command is empty until its edges are judged, or what they skip is skipped."""
    task = {"command": ["true"], "node_labels": {"node": stage.node.id}}
    members = [{"name": name, "task": task} for name in appended]
    stage.results = {"plan": {"ok": True, "commands": {"append": {"members": members, "edges": edges}}}}
    run = await stage.create({"plan": {}}, mode="superstep")
    assert (await run.end())["status"] == "completed"
    assert await run.members() == {"plan": "completed", "new": "completed"} | (
        {"mend": "skipped"} if len(appended) > 1 else {}
    )


async def test_a_member_of_the_frontier_that_gets_an_upstream_leaves_it(stage: RunStage) -> None:
    """Completed: it had not begun, waits for what was appended, and is of no superstep but its own."""
    held = stage.held["a"] = asyncio.Event()
    run = await stage.create({"a": {}, "b": {}}, mode="superstep", max_parallel=1)
    await run.until("EXISTS (SELECT FROM members m WHERE m.run_id = r.id AND m.status = 'in_progress')")
    task = {"command": ["true"], "node_labels": {"node": stage.node.id}}
    append = {"members": [{"name": "new", "task": task}], "edges": [{"from": "new", "to": "b"}]}
    await run.command({"append": append})
    await run.until("NOT EXISTS (SELECT FROM run_intents i WHERE i.run_id = r.id)")
    held.set()
    assert (await run.end())["status"] == "completed"
    steps = [event["data"] for event in await run.events() if event["type"] == "run.superstep"]
    assert [step["ran"] for step in steps] == [["a"], ["new"], ["b"]]
