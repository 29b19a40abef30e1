"""Canary secrets on the whole stack: each is used by real tasks, then looked for in every place that keeps anything."""

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

import psutil
import pytest

from tests.cli.stacks import StackProcess
from tests.security.scan import Found, Scan, environment_of
from tests.security.tasks import client_of, create, ended, until

QUIET = "canary-quiet-4b1d77e9"  # a secret that its command uses and never prints
SPOKEN = "canary-spoken-90aa12f3"  # a secret that its command prints: into the log, and nowhere else
STRAY = "canary-stray-5cc0e1d4"  # stands in the environment of `up`, and is nobody's business
ENVIRONMENT_OF_A_COMMAND = {
    *("PATH", "HOME", "LANG", "LC_ALL", "PWD", "OLDPWD", "SHLVL", "_"),
    *("TASKRUNNER_TASK_ID", "TASKRUNNER_ATTEMPT", "TASKRUNNER_TURN", "TASKRUNNER_WORKSPACE_ID"),
    *("TASKRUNNER_CALLBACK_URL", "TASKRUNNER_TOKEN_FILE", "TASKRUNNER_INPUT_FILE", "TASKRUNNER_RESULT_FILE"),
    *("TASKRUNNER_ARTIFACTS_DIR", "TASKRUNNER_ATTACHMENTS_DIR"),
}


@dataclass(kw_only=True)
class Stage:
    """A stack on which every secret was used, and what was seen meanwhile."""

    stack: StackProcess
    scan: Scan
    tasks: list[str]
    during: list[Found]
    command: dict[str, str]


def processes_with(variable: str) -> list[int]:
    """Give those processes whose environment has this variable."""
    found = []
    for process in psutil.process_iter():
        try:
            if variable in environment_of(process.pid):
                found.append(process.pid)
        except OSError:
            continue
    return found


@pytest.fixture(scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    """Use every secret: one command that keeps it, one that fails with it, a setup that shouts it, a workspace."""
    stack = StackProcess(
        tmp_path_factory.mktemp("canary") / "data",
        TASKRUNNER_SECRET_QUIET=QUIET,
        TASKRUNNER_SECRET_SPOKEN=SPOKEN,
        STRAY=STRAY,
    ).up()
    keys = {path.stem: path.read_text().strip() for path in stack.data_dir.glob("*.key")}
    texts = {"quiet": QUIET, "spoken": SPOKEN, "stray": STRAY, **keys}
    for name in ("callback", "webhook"):
        texts[name] = keys[name].partition(":")[2]
    scan = Scan(stack=stack, texts=texts)
    with client_of(stack) as client:
        made = client.post("/v1/keys", json={"name": "made", "scopes": ["tasks:read"]}).json()
        scan.texts["made"] = made["key"]
        begun = client.post("/v1/sessions").headers["set-cookie"]
        scan.texts["session"] = begun.partition(";")[0].partition("=")[2]
        go = stack.data_dir.parent / "go"
        wait = f'test -n "$QUIET" || exit 9; until [ -e {go} ]; do sleep 0.05; done'
        quiet = create(client, command=["sh", "-c", wait], secrets=["QUIET"])
        (pid, *_) = until(lambda: processes_with("QUIET") or None)
        (token,) = (stack.data_dir / "workspaces").glob("*/control/token")
        scan.texts["token"] = token.read_text().strip()
        during = scan.processes()
        command = environment_of(pid)
        go.touch()
        assert ended(client, quiet)["status"] == "completed"
        failing = create(client, command=["sh", "-c", 'test -n "$QUIET"; exit 3'], secrets=["QUIET"])
        shouting = create(
            client, command=["true"], setup=[["sh", "-c", 'echo "$SPOKEN" >&2; exit 4']], secrets=["SPOKEN"]
        )
        missing = create(client, command=["true"], secrets=["ABSENT"])
        outcomes = [ended(client, task)["error"] for task in (failing, shouting, missing)]
        assert [error["code"] for error in outcomes] == ["nonzero_exit", "setup_failed", "missing_secret"]
        outside = create(client, command=["true"], provider="external")
        workspace = until(lambda: client.get(f"/v1/tasks/{outside}").json()["workspace_id"])
        claimed = client.post(f"/v1/workspaces/{workspace}/callback-token", headers={"Idempotency-Key": "claim"}).json()
        scan.texts["claimed"] = claimed["token"]
        told = client.post(
            f"/v1/workspaces/{workspace}/finished", headers={"Authorization": f"Bearer {claimed['token']}"}
        )
        assert told.status_code == 200
        ended(client, outside)
    yield Stage(
        stack=stack, scan=scan, tasks=[quiet, failing, shouting, missing, outside], during=during, command=command
    )
    assert stack.stop() == 0


def names(found: list[Found]) -> set[tuple[str, str]]:
    """Give what was found where."""
    return {(each.name, each.where) for each in found}


def test_the_scan_finds_what_is_there(stage: Stage) -> None:
    """The checker itself: a text of a task's row and history is found in the database, the answers and the files."""
    probe = Scan(stack=stage.stack, texts={"probe": "test -n"})
    assert "table tasks.spec" in {found.where for found in probe.database()}
    assert f"GET /v1/tasks/{stage.tasks[0]}" in {
        found.where for found in probe.answers(stage.scan.texts["admin"], stage.tasks[:1])
    }
    assert probe.files()


async def test_histories_hold_no_secret(stage: Stage) -> None:
    """No event of any workflow, nothing that the UI lists or describes; the probe shows that they were read."""
    assert names(await stage.scan.histories()) == set()
    assert await Scan(stack=stage.stack, texts={"probe": "test -n"}).histories()


def test_the_database_holds_only_what_a_command_printed(stage: Stage) -> None:
    """A command's own output is kept as it came: that is the one place, and docs/security.md says so."""
    assert names(stage.scan.database()) == {("spoken", "table log_chunks.data")}


def test_the_api_answers_only_with_what_a_command_printed(stage: Stage) -> None:
    """Rows, events, attempts and problems hold no secret; `…/logs` is the output."""
    found = names(stage.scan.answers(stage.scan.texts["admin"], stage.tasks))
    assert found == {("spoken", f"GET /v1/tasks/{stage.tasks[2]}/logs")}


def test_files_hold_secrets_only_where_they_belong(stage: Stage) -> None:
    """The key files and what a command printed, as PostgreSQL stores it; no log, not Temporal's file."""
    found = stage.scan.files(but={"admin.key", "node.key", "callback.key", "webhook.key"})
    left = {(each.name, re.sub(r"^postgres/data/.*", "postgres/data", each.where)) for each in found}
    assert left <= {("spoken", "postgres/data")}
    assert len(list(stage.stack.data_dir.glob("logs/*.log"))) >= 4


def test_processes_get_the_secrets_that_they_need_and_no_other(stage: Stage) -> None:
    """While a command ran: nothing in any argv; each environment holds its own."""
    found = {pair for pair in names(stage.during) if pair[0] != "stray"}
    own = {("quiet", "environment of up"), ("spoken", "environment of up")}
    own |= {("quiet", "environment of node"), ("spoken", "environment of node"), ("node", "environment of node")}
    own |= {("callback", "environment of api")}
    # The one shows a secret once, the other signs with it.
    own |= {("webhook", "environment of api"), ("webhook", "environment of control")}
    ours = {pair for pair in found if pair[1] in {f"environment of {role}" for role in ROLES} or "argv" in pair[1]}
    assert ours == own
    others = found - ours
    assert {name for name, _ in others} <= {"quiet"}  # the command itself
    assert {pair for pair in names(stage.during) if pair[1] in STRANGERS} == set()


ROLES = ("up", "control", "node", "api", "temporal", "postgres")
STRANGERS = ("environment of temporal", "environment of postgres")


def test_a_command_sees_its_own_environment_only(stage: Stage) -> None:
    """What the contract names, what the task asked for, and nothing else of the node's."""
    assert set(stage.command) - ENVIRONMENT_OF_A_COMMAND == {"QUIET"}
    assert STRAY not in json.dumps(stage.command)


def test_files_of_the_stack_are_their_owners(stage: Stage) -> None:
    """Keys, logs and Temporal's file cannot be read by others; a workspace's folder cannot be entered by them."""
    private = [*stage.stack.data_dir.glob("*.key"), *stage.stack.data_dir.glob("temporal.db*")]
    private += [*stage.stack.data_dir.glob("logs/*"), stage.stack.data_dir / "postgres" / "password"]
    open_to_others = [str(path) for path in private if path.stat().st_mode & 0o077]
    assert open_to_others == []
    assert len(private) >= 9
