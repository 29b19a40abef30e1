"""The small scenarios and the examples, each a run on one whole stack, judged by what the API says of it."""

import csv
import hashlib
import io
import os
import signal
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cli.stacks import CHECKOUT, StackProcess
from tests.examples.runs import EXAMPLES, Runs, example, remote, repository, until
from tests.examples.small import DONE, PARTIAL, SMALL, Small

pytestmark = pytest.mark.timeout(600)  # one stack for all: the first test pays for its start


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackProcess]:
    """Give one running stack; `python3` in a workspace is the interpreter of these tests."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    running = StackProcess(tmp_path_factory.mktemp("stack") / "data", PATH=path, TASKRUNNER_NODE_SLOTS="6").up()
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="module")
def runs(stack: StackProcess) -> Iterator[Runs]:
    """Give a caller of its API."""
    with remote(stack) as caller:
        yield Runs(caller)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Give the URL of a repository with the files of this checkout."""
    return repository(tmp_path_factory.mktemp("source"))


# --- six small ones: three pieces of work, and a sum of them ----------------------------------------------------------


@dataclass
class Played:
    """The five small runs once they have ended, and what was to be seen while one piece was still open."""

    ids: dict[str, str]
    open_run: dict[str, Any]
    open_piece: dict[str, Any]
    open_events: list[dict[str, Any]]


@pytest.fixture(scope="module")
def played(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Played:
    """Start all at once; look at the one that waits, open its gate, and wait until all have ended."""
    gate = tmp_path_factory.mktemp("gate") / "open"
    ids = {small.name: runs.create(small.body(gate)) for small in SMALL}
    waits = ids[PARTIAL.name]
    piece = until(lambda: runs.members(waits)["piece"], lambda piece: piece["counts"].get("completed") == 2)
    played = Played(ids, runs.get(waits), piece, runs.events(waits))
    gate.touch()
    for run_id in ids.values():
        runs.ended(run_id)
    return played


@pytest.mark.parametrize("small", SMALL, ids=lambda small: small.name)
def test_a_small_scenario(small: Small, played: Played, runs: Runs) -> None:
    """The run, its members and its tasks end as the table says; a fan-out is aggregated once, and so is the run."""
    run_id = played.ids[small.name]
    run, members, tasks, events = runs.get(run_id), runs.members(run_id), runs.tasks(run_id), runs.events(run_id)
    assert (run["status"], run["outcome"]) == (small.status, small.status)
    assert (members["piece"]["status"], members["total"]["status"]) == small.members
    for item in ("1", "2", "3"):
        task = tasks[f"piece#{item}"]
        assert (task["status"], task["attempt"]) == small.pieces.get(item, ("completed", 1))
    if small.status == "completed":
        assert tasks["total"]["result"] == DONE
        assert run["error"] is None
    else:
        assert "total" not in tasks
        assert members["total"]["reason"] == "upstream"
        assert run["error"]["context"]["member"] == "piece"
    aggregated = [event["data"] for event in events if event["type"] == "run.aggregated"]
    assert [(data.get("member"), data["outcome"]) for data in aggregated] == [
        ("piece", small.members[0]),
        (None, small.status),
    ]
    ends = Counter(end for end, _ in (small.pieces.get(item, ("completed", 1)) for item in "123"))
    assert {end: count for end, count in aggregated[0]["counts"].items() if count} == ends
    assert [event["cursor"] for event in events] == list(range(1, len(events) + 1))


def test_partial_completion_is_no_completion(played: Played) -> None:
    """With two of three children completed, fan-out and run go on, and nothing is aggregated."""
    assert (played.open_run["status"], played.open_run["outcome"]) == ("in_progress", None)
    assert (played.open_piece["status"], played.open_piece["size"]) == ("in_progress", 3)
    assert "run.aggregated" not in [event["type"] for event in played.open_events]


def test_the_health_report_counts_it_all(played: Played, runs: Runs) -> None:
    """Ends, tries, retries by cause and exhausted tasks are those of the tasks that the API lists."""
    assert len(played.ids) == len(SMALL)
    tasks = list(runs.remote.pages("/v1/tasks", limit=1000))
    report = until(
        lambda: dict(runs.remote.get("/v1/health/report")),
        lambda report: sum(report["tasks"]["ended"].values()) == len(tasks),
    )
    assert report["tasks"]["ended"] == Counter(task["status"] for task in tasks)
    assert report["tasks"]["tries"] == sum(task["attempt"] for task in tasks)
    assert report["average_tries"] == pytest.approx(report["tasks"]["tries"] / len(tasks))
    again = sum(task["attempt"] - 1 for task in tasks)
    assert report["tasks"]["retries"]["agent"] == again
    exhausted = list(runs.remote.pages("/v1/tasks", limit=1000, exhausted="true"))
    assert [task["run_id"] for task in exhausted] == [played.ids["exhausted retries"]]
    assert report["tasks"]["exhausted"] == len(exhausted)
    assert "exhausted" in [reason["code"] for reason in report["reasons"]]
    assert report["level"] != "HEALTHY"


# --- four larger ones: the examples -----------------------------------------------------------------------------------


def test_ci_checks_and_builds_this_repository(runs: Runs, source: str) -> None:
    """Lint, each file of tests, and the build complete; the wheel is an artifact, and the summary knows all ends."""
    run_id = runs.create(example("ci", source))
    tasks = runs.completed(run_id)
    tests = [tasks[f"test#{item}"] for item in (1, 2, 3)]
    assert all(test["result"]["tests"] > test["result"]["failures"] + test["result"]["errors"] == 0 for test in tests)
    assert tasks["lint"]["finished_at"] < min(test["started_at"] for test in tests)
    assert max(test["finished_at"] for test in tests) < tasks["build"]["started_at"]
    left = runs.remote.get(f"/v1/tasks/{tasks['build']['id']}/artifacts")["items"]
    wheel = next(item["name"] for item in left if item["name"].endswith(".whl"))
    with zipfile.ZipFile(io.BytesIO(runs.artifact(tasks["build"], wheel))) as built:
        assert "domain/run_spec.py" in built.namelist()
    assert tasks["summary"]["result"] == {
        "outcomes": {"lint": "completed", "test": "completed", "build": "completed"},
        "passed": sum(test["result"]["tests"] for test in tests),
    }


def test_etl_reports_what_is_in_the_files(runs: Runs, source: str) -> None:
    """One child for each file; the report's totals are those of the lines that are neither repeated nor incomplete."""
    run_id = runs.create(example("etl", source))
    tasks = runs.completed(run_id)
    orders = sorted((EXAMPLES / "etl" / "orders").glob("*.csv"))
    assert runs.members(run_id)["clean"]["size"] == len(orders)
    expected = [str(cents_of(path)) for path in orders]
    report = list(csv.reader(io.StringIO(runs.artifact(tasks["report"], "report.csv").decode())))
    assert report[0] == ["category", *(path.stem for path in orders), "total"]
    columns = list(zip(*report[1:], strict=True))[1:]
    assert [str(sum(int(cell.replace(".", "")) for cell in column)) for column in columns[:-1]] == expected
    assert tasks["report"]["result"]["revenue"].replace(".", "") == str(sum(int(cents) for cents in expected))


def cents_of(orders: Path) -> int:
    """Return a shop's revenue: each order once, as far as its quantity is known."""
    with orders.open(newline="") as file:
        lines = {line["order"]: line for line in csv.DictReader(file) if line["quantity"]}
    return sum(
        int(line["quantity"]) * round(100 * float(line["unit_price"].replace(",", "."))) for line in lines.values()
    )


def test_training_selects_the_best_and_judges_it(runs: Runs, source: str) -> None:
    """The model of the smallest validation loss goes on, and is right about nine of ten flowers that it never saw."""
    run_id = runs.create(example("training", source))
    tasks = runs.completed(run_id)
    sweep = [task["result"] for name, task in tasks.items() if name.startswith("train#")]
    assert len(sweep) == 6
    assert tasks["best"]["result"] == min(sweep, key=lambda model: model["loss"])
    evaluation = tasks["evaluate"]["result"]
    assert sum(sum(row) for row in evaluation["confusion"]) == len(tasks["split"]["result"]["holdout"]) == 30
    assert evaluation["accuracy"] >= 0.9
    assert b"accuracy" in runs.artifact(tasks["evaluate"], "evaluation.txt")


def test_recovery_comes_through_failures_and_killed_workers(runs: Runs, stack: StackProcess, source: str) -> None:
    """The third attempt of what fails twice completes; what ran while its worker was killed goes on in its attempt."""
    run_id = runs.create(example("recovery", source))
    until(lambda: runs.members(run_id)["digest"], lambda member: member["status"] == "in_progress")
    digest = runs.tasks(run_id)["digest"]
    until(lambda: {"said": digests(runs, digest)}, lambda seen: len(seen["said"]) > 1)
    killed = [stack.child(f"worker --role {role}") for role in ("node", "control")]
    for worker in killed:
        worker.send_signal(signal.SIGKILL)
    tasks = runs.completed(run_id)
    assert {name: task["attempt"] for name, task in tasks.items()} == {"fetch": 3, "digest": 1, "check": 1}
    pages = sorted((CHECKOUT / "docs").rglob("*.md"))
    expected = {str(page.relative_to(CHECKOUT)): hashlib.sha256(page.read_bytes()).hexdigest() for page in pages}
    assert tasks["digest"]["result"] == expected
    assert digests(runs, digest) == [f"{sum_}  {page}" for page, sum_ in expected.items()]
    assert tasks["check"]["result"] == {"checked": len(pages), "wrong": []}
    alarm = runs.members(run_id)["alarm"]
    assert (alarm["status"], alarm["reason"]) == ("skipped", "condition")
    assert not [worker for worker in killed if worker.is_running()]


def digests(runs: Runs, task: dict[str, Any]) -> list[str]:
    """Return the lines that the command has printed; those of the workspace begin otherwise."""
    return [line for line in runs.log(task).splitlines() if "  docs/" in line]
