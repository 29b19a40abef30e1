"""`/v1/runs`: made whole or not at all, shown, listed."""

from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import text

from domain.lifecycle import TaskStatus
from domain.run_spec import MEMBER_LIMIT
from tests.api.harness import Api
from tests.store.runs import DIAMOND, Orchestrator

TASK = {"command": ["true"], "provider": "external"}


def body(*names: str, edges: tuple[tuple[str, str], ...] = (), **more: Any) -> dict[str, Any]:
    """Return a body with these members and edges."""
    members = [{"name": name, "task": TASK} for name in names]
    return {"members": members, "edges": [{"from": a, "to": b} for a, b in edges]} | more


def fan(**fan_out: Any) -> dict[str, Any]:
    """Return a body with one fan-out."""
    return {"members": [{"name": "a", "task": TASK, "fan_out": fan_out}]}


def edge(**more: Any) -> dict[str, Any]:
    """Return a body with one edge."""
    return body("a", "b") | {"edges": [{"from": "a", "to": "b"} | more]}


def task(**more: Any) -> dict[str, Any]:
    """Return a body whose second member has another task."""
    made = body("a", "b")
    made["members"][1]["task"] = TASK | more
    return made


# What is sent, the code of the answer, and what its detail names.
BAD: dict[str, tuple[dict[str, Any], str, tuple[str, ...]]] = {
    "unknown member in an edge": (body("a", edges=(("a", "gone"),)), "unknown_member", ("gone",)),
    "duplicate name": (body("a", "b", "a"), "duplicate_member", ("a",)),
    "self-loop": (body("a", edges=(("a", "a"),)), "self_loop", ("a → a",)),
    "edge twice": (body("a", "b", edges=(("a", "b"), ("a", "b"))), "duplicate_edge", ("a → b",)),
    "cycle": (
        body("x", "a", "b", "c", edges=(("x", "a"), ("a", "b"), ("b", "c"), ("c", "a"))),
        "cycle",
        ("a → b → c → a",),
    ),
    "10,001 members": (body(*(f"m{n}" for n in range(MEMBER_LIMIT + 1))), "invalid", ("members", "10000")),
    "10,001 tasks": (
        {"members": [{"name": n, "task": TASK, "fan_out": {"count": 5001}} for n in "ab"]},
        "invalid",
        ("10,002 tasks", "10,000"),
    ),
    "no member": (body(), "invalid", ("members",)),
    "bad name": (body("a b"), "invalid", ("members.0.name",)),
    "an outcome that does not exist": (edge(when="sometimes"), "invalid", ("edges.0.when.outcome", "'finished'")),
    "a condition of no operator": (
        edge(when={"pointer": "/a", "op": "is"}),
        "invalid",
        ("edges.0.when.condition.op",),
    ),
    "a condition of no pointer": (edge(when={"pointer": "a"}), "invalid", ("edges.0.when.condition.pointer",)),
    "an order that waits": (edge(kind="preferred_order", when="failed"), "invalid", ("edges.0", "preferred_order")),
    "no outcome reaches it": (
        {
            "members": body("a", "b", "c")["members"],
            "edges": [{"from": "a", "to": "b", "when": "failed"}, {"from": "b", "to": "c"}, {"from": "a", "to": "c"}],
        },
        "unreachable_member",
        ("c",),
    ),
    "fan-out of 0": (fan(count=0), "invalid", ("members.0.fan_out.count", "greater than or equal to 1")),
    "fan-out of -1": (fan(count=-1), "invalid", ("members.0.fan_out.count", "greater than or equal to 1")),
    "fan-out of 100,000": (fan(count=100_000), "invalid", ("members.0.fan_out.count", "10000")),
    "fan-out of no items": (fan(items=[]), "invalid", ("members.0.fan_out.items",)),
    "fan-out of two kinds": (fan(items=[1], count=1), "invalid", ("members.0.fan_out", "exactly one")),
    "items from nobody": (fan(items_from="gone#/x"), "unknown_member", ("gone",)),
    "items from nowhere": (fan(items_from="gone"), "invalid", ("members.0.fan_out.items_from",)),
    "breakpoint at nobody": (body("a", breakpoints={"before": ["gone"]}), "unknown_member", ("gone",)),
    "affinity to nobody's upstream": (
        {"members": [{"name": "a", "task": TASK}, {"name": "b", "task": TASK, "affinity": "a"}]},
        "not_upstream",
        ("b",),
    ),
    "state without supersteps": (body("a", state={"n": 1}), "invalid", ("superstep",)),
    "an unknown field": (body("a", colour="red"), "invalid", ("colour",)),
    "a task that is none": ({"members": [{"name": "a", "task": {}}]}, "invalid", ("members.0.task", "command")),
    "a task's input that is no object": (task(input=[1]), "invalid", ("members.1.task", "object")),
    "a task that outlives its token": (
        task(timeouts={"running_absolute": "P3D"}),
        "invalid",
        ("members.1.task.timeouts", "b"),
    ),
    "a workspace that cannot be kept": (
        task(keep_workspace={"on": "always", "for": 60}),
        "invalid",
        ("members.1.task", "keep_workspace"),
    ),
    "an attachment that is not there": (task(attachments=["gone"]), "unknown_attachment", ("gone",)),
}


async def rows(api: Api) -> int:
    """Return how many rows there are that a run could have left."""
    query = text("""
    SELECT (SELECT count(*) FROM runs) + (SELECT count(*) FROM members) + (SELECT count(*) FROM run_events)
           + (SELECT count(*) FROM run_intents) + (SELECT count(*) FROM tasks)
    """)
    async with api.database.read() as connection:
        return int((await connection.execute(query)).scalar_one())


@pytest.mark.parametrize("case", BAD)
async def test_what_is_wrong_is_named_and_nothing_is_started(api: Api, case: str) -> None:
    """422 with its code; the answer says where and what, and no row is written."""
    sent, code, named = BAD[case]
    before = await rows(api)
    answer = await api.client.post("/v1/runs", json=sent)
    assert (answer.status_code, answer.json()["code"]) == (422, code), answer.text
    problem = answer.json()
    said = problem["detail"] + "".join(f"{error['field']} {error['reason']}" for error in problem.get("errors", ()))
    assert [name for name in named if name not in said] == []
    assert await rows(api) == before


async def test_a_list_of_edges_over_the_limit_is_413(api: Api) -> None:
    """1 MB of edges is refused while it is read."""
    sent = body("a", "b", edges=(("a", "b"),) * 50_000)
    before = await rows(api)
    answer = await api.client.post("/v1/runs", json=sent)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert await rows(api) == before


async def test_a_run_is_made_with_its_members(api: Api) -> None:
    """201, `queued`, all members waiting, the start on its way; what it says is what `GET` says."""
    made = await api.create_run(labels={"team": "core"}, max_parallel=2)
    assert {name: made[name] for name in ("name", "status", "attempt", "mode", "on_failure", "max_parallel")} == {
        "name": "diamond",
        "status": "queued",
        "attempt": 1,
        "mode": "eager",
        "on_failure": "skip_dependents",
        "max_parallel": 2,
    }
    assert {status: count for status, count in made["counts"].items() if count} == {"waiting": 4}
    assert made["workflow_id"] == f"run-{made['id']}"
    assert made["workflow_id"] in made["temporal_url"]
    shown = (await api.client.get(made["links"]["self"])).json()
    assert shown == made
    for name in ("graph", "events", "tasks"):
        assert (await api.client.get(made["links"][name])).status_code == 200, name


async def test_runs_are_listed_newest_first_and_narrowed(api: Api) -> None:
    """Page by page; by status, by label, by part of the name."""
    made = [
        await api.create_run(name=f"page {number}", labels={"list": "yes", "n": str(number)}) for number in range(5)
    ]
    await Orchestrator(api.database, made[0]["id"]).begin()
    ids = [run["id"] for run in reversed(made)]
    seen: list[str] = []
    params: dict[str, Any] = {"label": "list:yes", "limit": 2}
    while True:
        page = (await api.client.get("/v1/runs", params=params)).json()
        seen += [run["id"] for run in page["items"]]
        if page["next_cursor"] is None:
            break
        params["cursor"] = page["next_cursor"]
    assert seen == ids
    narrowed: dict[str, tuple[dict[str, Any], list[str]]] = {
        "status": ({"label": "list:yes", "status": "in_progress"}, [made[0]["id"]]),
        "labels": ({"label": ["list:yes", "n:3"]}, [made[3]["id"]]),
        "q": ({"q": "PAGE 4"}, [made[4]["id"]]),
    }
    for name, (query, expected) in narrowed.items():
        items = (await api.client.get("/v1/runs", params=query)).json()["items"]
        assert [run["id"] for run in items] == expected, name
    assert "edges" not in items[0]


async def test_a_tasks_run_is_told_and_narrows_the_list(api: Api) -> None:
    """`run_id`, `member` and `item` in the task; `member` as a filter."""
    made = await api.create_run(
        members=[{"name": "a", "task": TASK, "fan_out": {"count": 2}}, {"name": "b", "task": TASK}], edges=[]
    )
    orchestrator = Orchestrator(api.database, made["id"])
    await orchestrator.begin()
    ids = [await orchestrator.start("a", 1), await orchestrator.start("a", 2), await orchestrator.start("b")]
    shown = (await api.client.get(f"/v1/tasks/{ids[1]}")).json()
    assert (shown["run_id"], shown["member"], shown["item"]) == (made["id"], "a", 2)
    listed = await api.client.get("/v1/tasks", params={"run_id": made["id"], "member": "a"})
    assert {item["id"] for item in listed.json()["items"]} == set(ids[:2])
    alone = await api.create()
    assert (alone["run_id"], alone["member"], alone["item"]) == (None, None, None)


async def test_a_large_run_is_made(api: Api) -> None:
    """10,000 members, in one request."""
    names = [f"m{number}" for number in range(MEMBER_LIMIT)]
    members = [{"name": name, "task": {"command": ["true"]}} for name in names]
    made = await api.create_run(members=members, edges=[{"from": "m0", "to": name} for name in names[1:1000]])
    assert made["counts"]["waiting"] == MEMBER_LIMIT
    graph = (await api.client.get(made["links"]["graph"])).json()
    assert len(graph["members"]) == MEMBER_LIMIT
    assert "m0" in graph["ready"]


async def test_the_graph_says_how_far_it_is(api: Api) -> None:
    """Statuses, tasks, what is ready, what blocks, layers, and the critical way by what is known of durations."""
    sent = DIAMOND | {"members": [dict(member) for member in DIAMOND["members"]]}
    for member, seconds in zip(sent["members"], (1, 5, 50, 1), strict=True):
        member["expected"] = seconds
    made = await api.create_run(**sent)
    path = made["links"]["graph"]
    graph = (await api.client.get(path)).json()
    assert (graph["ready"], graph["roots"], graph["leaves"]) == (["a"], ["a"], ["d"])
    assert graph["blocked"] == {"b": ["a"], "c": ["a"], "d": ["b", "c"]}
    assert graph["topological_order"] == ["a", "b", "c", "d"]
    assert graph["layers"] == [["a"], ["b", "c"], ["d"]]
    assert graph["critical_path"] == {"members": ["a", "c", "d"], "seconds": 52.0}
    assert graph["edges"][0] == {"from": "a", "to": "b", "kind": "blocking", "when": "completed"}
    orchestrator = Orchestrator(api.database, made["id"])
    await orchestrator.begin()
    done = await orchestrator.run_through("a")
    running = await orchestrator.start("b")
    graph = (await api.client.get(path)).json()
    members = {member["name"]: member for member in graph["members"]}
    assert {name: (member["status"], member["task_id"]) for name, member in members.items()} == {
        "a": ("completed", done),
        "b": ("in_progress", running),
        "c": ("waiting", None),
        "d": ("waiting", None),
    }
    assert (graph["ready"], graph["blocked"]) == (["c"], {"d": ["b", "c"]})
    began, ended = (datetime.fromisoformat(members["a"][name]) for name in ("started_at", "finished_at"))
    assert members["a"]["duration_seconds"] == (ended - began).total_seconds()
    assert members["b"]["duration_seconds"] is None
    assert [member["layer"] for member in graph["members"]] == [0, 1, 1, 2]
    assert len({(member["x"], member["y"]) for member in graph["members"]}) == 4


async def test_the_graph_judges_conditions(api: Api) -> None:
    """Of two members that ask for other values of one result, the one that holds is ready; edges say what they ask."""
    ways = {"good": 0.9, "bad": 0.1}
    edges = [
        {"from": "a", "to": name, "when": {"pointer": "/score", "op": "eq", "value": value}}
        for name, value in ways.items()
    ]
    made = await api.create_run(**body("a", *ways) | {"edges": edges})
    orchestrator = Orchestrator(api.database, made["id"])
    await orchestrator.begin()
    await orchestrator.run_through("a", result={"score": 0.9})
    graph = (await api.client.get(made["links"]["graph"])).json()
    assert graph["ready"] == ["good"]
    assert graph["blocked"] == {}
    assert graph["edges"][0]["when"] == {"pointer": "/score", "op": "eq", "value": 0.9}


async def test_the_graph_counts_the_children_of_a_fan_out(api: Api) -> None:
    """Its size, and how many of those that were made are where."""
    made = await api.create_run(members=[{"name": "a", "task": TASK, "fan_out": {"count": 3}}], edges=[])
    orchestrator = Orchestrator(api.database, made["id"])
    await orchestrator.begin()
    first = await orchestrator.start("a", 1)
    await orchestrator.start("a", 2)
    await orchestrator.end_task(first, TaskStatus.FAILED)
    (member,) = (await api.client.get(made["links"]["graph"])).json()["members"]
    assert (member["kind"], member["size"], member["task_id"]) == ("fan_out", 3, None)
    assert member["counts"] == {"failed": 1, "queued": 1}


async def test_another_projects_run_is_not_found(api: Api) -> None:
    """The same 404 as for an unknown one, at every address."""
    made = await api.create_run()
    stranger = await api.key(project="elsewhere")
    for part in ("", "/graph", "/events", "/stream"):
        foreign = await api.client.get(f"/v1/runs/{made['id']}{part}", headers=stranger)
        unknown = await api.client.get(f"/v1/runs/unknown{part}")
        assert (foreign.status_code, unknown.status_code) == (404, 404), part
    assert made["id"] not in (await api.client.get("/v1/runs", headers=stranger)).text
