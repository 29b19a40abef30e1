"""`GET /v1/health/report`: what an operator sees, and what a project sees."""

from typing import Any

import pytest
from sqlalchemy import text
from temporalio.testing import WorkflowEnvironment

from api.health import Health
from domain.events import EventType
from domain.lifecycle import Step, TaskStatus
from domain.names import ProjectId, Scope
from domain.policy import Budgets
from domain.thresholds import Thresholds
from store.engine import Database
from tests.api.harness import Api
from workflows.gateway import Gateway


@pytest.fixture(autouse=True)
def forget(api: Api, engine_api: Api) -> None:
    """Let each test see its own numbers: a report is the same for a few seconds."""
    for each in (api, engine_api):
        each.app.state.context.health._known.clear()


async def reported(api: Api, headers: dict[str, str] | None = None) -> dict[str, Any]:
    """The report."""
    response = await api.client.get("/v1/health/report", headers=headers or await api.key(Scope.ADMIN))
    assert response.status_code == 200, response.text
    return dict(response.json())


async def test_an_operator_sees_the_whole(api: Api) -> None:
    """An admin of `default`: all projects' tasks and the system's numbers; Temporal is away, and that is critical."""
    await api.create(start=False)
    foreign = await api.key(Scope.TASKS_WRITE, project="elsewhere")
    await api.client.post("/v1/tasks", json={"command": ["true"], "start": False}, headers=foreign)
    report = await reported(api)
    assert (report["level"], report["project"], report["database"], report["temporal"]) == (
        "CRITICAL",
        None,
        True,
        False,
    )
    assert report["tasks"]["open"]["ready"] >= 2
    assert report["reasons"][0]["code"] == "temporal_unreachable"
    assert report["system"]["nodes"] == []


@pytest.mark.parametrize("scopes", [(Scope.TASKS_READ,), (Scope.ADMIN,)])
async def test_a_project_sees_its_own_tasks(api: Api, scopes: tuple[Scope, ...]) -> None:
    """Nothing of other projects and nothing of the system, whatever the key's scope there."""
    project = f"own-{scopes[0].partition(':')[0]}"
    await api.create(start=False)
    own = await api.key(Scope.TASKS_WRITE, project=project)
    await api.client.post("/v1/tasks", json={"command": ["true"], "start": False}, headers=own)
    report = await reported(api, await api.key(*scopes, project=project))
    assert (report["project"], report["system"]) == (project, None)
    assert report["tasks"]["open"] == {"ready": 1}


async def test_a_task_past_its_budget_is_stuck(api: Api) -> None:
    """`explain` decides: quiet past the deadline is stuck, quiet within the budget is not; an unreadable row is."""
    late, patient, odd = [await api.live(timeouts={"workspace_ready": "PT20M"}) for _ in range(3)]
    for attempt, minutes in ((late, 30), (patient, 15), (odd, 30)):
        await attempt.flush(attempt.event(EventType.STEP_STARTED, step=Step.WORKSPACE_READY))
        async with api.database.begin("test") as connection:
            await connection.execute(
                text(
                    "UPDATE tasks SET updated_at = updated_at - make_interval(mins => :minutes),"
                    " step_started_at = step_started_at - make_interval(mins => :minutes) WHERE id = :id"
                ),
                {"id": attempt.task, "minutes": minutes},
            )
    async with api.database.begin("test") as connection:
        broken = text("UPDATE tasks SET spec = jsonb_set(spec, '{timeouts}', '{\"running\": \"x\"}') WHERE id = :id")
        await connection.execute(broken, {"id": odd.task})
    tasks = (await reported(api, await api.key(Scope.TASKS_READ)))["tasks"]
    assert (tasks["stuck"], set(tasks["stuck_tasks"])) == (2, {late.task, odd.task})
    for attempt in (late, patient, odd):
        await attempt.end(TaskStatus.CANCELLED)


async def test_the_first_sweep_is_given_its_time(api: Api) -> None:
    """Where none has been yet, its age is that of the process that waits for it."""
    async with api.database.begin("test") as connection:
        assert (await connection.execute(text("SELECT count(*) FROM sweeps"))).scalar_one() == 0
    report = await reported(api)
    assert 0 <= report["system"]["sweep_age_seconds"] < 120
    assert "sweep_age" not in {cause["code"] for cause in report["reasons"]}


async def test_many_who_ask_share_one_report(api: Api) -> None:
    """The same answer for a few seconds, whoever of the project asks."""
    first = await reported(api)
    await api.create(start=False)
    assert await reported(api) == first


async def test_with_the_database_away_the_report_says_so(nowhere: Gateway) -> None:
    """CRITICAL with both reasons and no numbers."""
    database = Database("postgresql+psycopg://nobody@127.0.0.1:1/none", pool=1)
    health = Health(database, nowhere, budgets=Budgets(), thresholds=Thresholds())
    report = await health.report(ProjectId("p"))
    assert [cause.code for cause in report.reasons] == ["database_unreachable", "temporal_unreachable"]
    assert (report.tasks, report.system) == (None, None)
    await database.close()


async def test_who_polls_is_asked_of_temporal(engine_api: Api, temporal: WorkflowEnvironment) -> None:
    """Without workers: no control worker, and a node that only its row calls ready; no workflow has problems."""
    await engine_api.client.post("/v1/nodes", json={"id": "ghost", "slots": 1})
    await engine_api.client.post("/v1/nodes/ghost/ready")
    report = await reported(engine_api)
    codes = {cause["code"] for cause in report["reasons"]}
    assert {"no_node"} <= codes
    assert report["temporal"] is True
    assert report["system"]["reported_problems"] is not None
    assert await Gateway(temporal.client).polled("a-queue-of-nobody") is None
