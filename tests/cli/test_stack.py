import json
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from temporalio.client import Client

from cli.embedded.postgres import Postgres
from cli.embedded.temporal import TemporalDevServer
from cli.remote import Remote
from tests.cli.stacks import PATIENCE, StackProcess


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackProcess]:
    """Give one running stack to this module's tests."""
    running = StackProcess(tmp_path_factory.mktemp("stack") / "data").up()
    yield running
    assert running.stop() == 0


def remote(stack: StackProcess) -> Remote:
    """Return a client with the stack's own admin key."""
    address = json.loads((stack.data_dir / "address.json").read_text())
    return Remote(address["api"], (stack.data_dir / "admin.key").read_text().strip())


def waiting(remote: Remote) -> dict[str, Any]:
    """Create a task that waits for somebody to claim its workspace, and return it with its workspace."""
    task = remote.post("/v1/tasks", {"name": "waits", "command": ["true"], "provider": "external"})
    while not remote.get(f"/v1/tasks/{task['id']}")["workspace_id"]:
        time.sleep(0.05)
    shown: dict[str, Any] = remote.get(f"/v1/tasks/{task['id']}")
    return shown


def call_back(remote: Remote, task: dict[str, Any]) -> None:
    """Do what an external workspace does: claim the token, say ready, say finished."""
    workspace = task["workspace_id"]
    token = remote.post(f"/v1/workspaces/{workspace}/callback-token")["token"]
    with Remote(remote.url, token) as inside:
        inside.post(f"/v1/workspaces/{workspace}/ready", {"status": "running"})
        inside.post(f"/v1/workspaces/{workspace}/finished", {"exit_code": 0, "result": {"went": "on"}})


def test_up_prints_where_everything_is(stack: StackProcess) -> None:
    """API, API docs and Temporal UI are printed, and each answers."""
    printed = {line.split()[0] + line.split()[1]: line.split()[-1] for line in stack.said if "http://" in line}
    address = json.loads((stack.data_dir / "address.json").read_text())
    assert list(printed.values()) == [address["api"], address["docs"], address["temporal_ui"]]
    for server, path in ((address["api"], "/livez"), (address["api"], "/docs"), (address["temporal_ui"], "/")):
        with Remote(server, None) as page:
            assert page.text(path).is_success


def test_start_follows_a_task_and_ends_with_its_exit_code(stack: StackProcess) -> None:
    """Steps are printed in order, the output before the end of `running`; the exit code is 0.

    A command this quick may be heard before the follower has come to print `workspace_ready`.
    """
    printed = stack.run("start", "--name", "greets", "--", "echo", "hello from the workspace")
    lines = printed.splitlines()
    assert lines[0].startswith("task ")
    assert lines[0].endswith("greets")
    output = next(n for n, line in enumerate(lines) if "hello from the workspace" in line)
    ready = next(n for n, line in enumerate(lines) if "workspace_ready" in line)
    running = next(n for n, line in enumerate(lines) if "running" in line)
    assert ready < running
    assert output < running
    assert lines[-1].startswith("completed in ")
    assert lines[-1].endswith("exit code 0")


def test_start_ends_with_the_exit_code_of_a_failed_command(stack: StackProcess) -> None:
    """The command's own code is passed on, with the error and its guidance."""
    printed = stack.run("start", "--max-attempts", "1", "--", "sh", "-c", "echo broken; exit 7", code=7)
    assert "broken" in printed
    assert "exit code 7" in printed
    assert "failed in" in printed


def test_start_ends_with_1_where_no_command_ran(stack: StackProcess) -> None:
    """A task that fails before its command starts has exit code 1."""
    missing = (stack.data_dir / "no-such-repository").as_uri()
    printed = stack.run("start", "--max-attempts", "1", "--repo", missing, "--", "true", code=1)
    assert "failed in" in printed


def test_ctrl_c_cancels_the_task(stack: StackProcess) -> None:
    """Ctrl-C asks to cancel, waits for the end and exits with 130."""
    following = subprocess.Popen(
        [sys.executable, "-P", "-m", "cli.main", "start", "--", "sh", "-c", "echo now; sleep 600"],
        env=stack.env | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert following.stdout
    task_id = following.stdout.readline().split()[1]
    while "now" not in following.stdout.readline():
        pass
    following.send_signal(signal.SIGINT)
    rest, said = following.communicate(timeout=PATIENCE)
    assert following.returncode == 130
    assert "asked to cancel" in said
    assert "cancelled in" in rest
    assert json.loads(stack.run("tasks", "show", task_id, "--json"))["status"] == "cancelled"


def test_the_logs_of_ours_are_json_lines(stack: StackProcess) -> None:
    """Each line of API and workers but those of Temporal's core, with a level, a time and an event."""
    for name in ("api", "control-worker", "node-worker"):
        lines = (stack.data_dir / "logs" / f"{name}.log").read_text().splitlines()
        ours = [json.loads(line) for line in lines if "temporalio_sdk_core" not in line]
        assert ours
        assert all({"level", "timestamp", "event"} <= line.keys() for line in ours)


def test_the_reading_commands_show_what_the_api_has(stack: StackProcess) -> None:
    """List, show, events, logs and artifacts of one task, as text and as the API's JSON."""
    made = json.loads(
        stack.run(
            *("start", "--json", "--name", "leaves a file", "--label", "kind=test", "--input", '{"n": 1}'),
            *("--artifacts", "*.txt", "--", "sh", "-c", 'cat "$TASKRUNNER_INPUT_FILE"; echo kept > left.txt'),
        )
    )
    task_id = made["id"]
    assert made["status"] == "completed"

    assert [task["id"] for task in json.loads(stack.run("tasks", "list", "--label", "kind:test", "--json"))] == [
        task_id
    ]
    assert "leaves a file" in stack.run("tasks", "list")
    assert json.loads(stack.run("tasks", "show", task_id, "--json")) == made
    assert "completed" in stack.run("tasks", "show", task_id)
    events = json.loads(stack.run("tasks", "events", task_id, "--json"))
    assert [event["seq"] for event in events] == list(range(1, made["last_seq"] + 1))
    assert events[-1]["type"] == "task.completed"
    assert "task.completed" in stack.run("tasks", "events", task_id, "--from-seq", str(made["last_seq"]))
    assert json.loads(stack.run("tasks", "logs", task_id)) == {"n": 1}
    assert json.loads(stack.run("tasks", "logs", task_id, "--follow")) == {"n": 1}
    assert json.loads(stack.run("tasks", "logs", task_id, "-f", "--json")) == {"attempt": 1, "output": '{"n": 1}'}
    followed = [json.loads(line) for line in stack.run("tasks", "events", task_id, "-f", "--json").splitlines()]
    assert followed == events
    assert stack.run("tasks", "events", task_id, "-f") == stack.run("tasks", "events", task_id)
    assert "left.txt" in stack.run("tasks", "artifacts", task_id)
    assert stack.run("tasks", "artifacts", task_id, "left.txt") == "kept\n"


def test_every_reading_command_prints_json(stack: StackProcess) -> None:
    """One document; one for each line where there is no end to wait for, here that of a task that has ended."""
    task = str(json.loads(stack.run("start", "--json", "--", "echo", "read me"))["id"])
    reads = ["tasks list", "tasks show", "tasks explain", "tasks events", "tasks logs", "tasks artifacts", "keys list"]
    for command in (*reads, "health", "doctor", "reconcile --dry-run"):
        words = command.split()
        of_one = words[0] == "tasks" and words[1] != "list"
        json.loads(stack.run(*words, "--json", *([task] if of_one else []), code=None))
    for command in ("events", "logs"):
        for line in stack.run("tasks", command, task, "--json", "--follow").splitlines():
            json.loads(line)


def test_the_shell_is_offered_ids_with_what_they_are(stack: StackProcess) -> None:
    """An id that begins as what was typed, its status and its name beside it where the shell shows that."""
    task = stack.run("start", "--detach", "--name", "complete me", "--", "true").strip()
    words = f"taskrunner tasks show {task[:-2]}"
    asked = {"_TASKRUNNER_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": words}
    code = "import sys; sys.argv[0] = 'taskrunner'; from cli.main import main; main()"
    argv = [sys.executable, "-P", "-c", code]
    done = subprocess.run(argv, env=stack.env | asked, capture_output=True, text=True, check=True)
    assert task in done.stdout
    assert "complete me" in done.stdout
    assert done.stderr == ""


def test_a_waiting_task_is_cancelled_by_command(stack: StackProcess) -> None:
    """`tasks cancel` ends a task that waits for its workspace."""
    with remote(stack) as api:
        task = waiting(api)
        assert "cancel of" in stack.run("tasks", "cancel", task["id"])
        assert "cancelled" in stack.run("tasks", "logs", task["id"], "--follow") + stack.run(
            "tasks", "show", task["id"]
        )


def test_an_unknown_task_is_a_sentence(stack: StackProcess) -> None:
    """The problem's sentence and code, exit code 1, no traceback."""
    printed = stack.run("tasks", "show", str(uuid.uuid4()), code=1)
    assert printed.startswith("error: ")
    assert "Traceback" not in printed


def test_a_task_is_explained_and_reconciled_by_command(stack: StackProcess) -> None:
    """Sentences for a person, JSON for a program; a dry run of the sweep finds nothing to mend in a sound stack."""
    task = json.loads(stack.run("tasks", "list", "--limit", "1", "--json"))[0]
    told = json.loads(stack.run("tasks", "explain", task["id"], "--json"))
    assert (told["task_id"], told["status"]) == (task["id"], task["status"])
    assert told["waits_for"]["text"] in stack.run("tasks", "explain", task["id"])
    report = json.loads(stack.run("reconcile", "--dry-run", "--json"))
    assert (report["dry_run"], report["errors"]) == (True, [])
    assert "workflows looked at" in stack.run("reconcile")


def test_webhooks_are_made_rotated_listed_and_deleted(stack: StackProcess) -> None:
    """The secret is printed once, another by `rotate`; an address inside is refused with a sentence."""
    made = stack.run("webhooks", "create", "https://1.1.1.1/hook", "--event", "task.paused").split()
    assert made[1].startswith("whsec_")
    assert stack.run("webhooks", "rotate", made[0]).strip() not in {"", made[1]}
    (listed,) = json.loads(stack.run("webhooks", "list", "--json"))
    assert (listed["id"], listed["url"], listed["events"]) == (made[0], "https://1.1.1.1/hook", ["task.paused"])
    assert "1.1.1.1" in stack.run("webhooks", "list")
    assert json.loads(stack.run("webhooks", "deliveries", made[0], "--json")) == []
    assert "not_found" in stack.run("webhooks", "redeliver", made[0], "none", code=1)
    assert "must lead to a public address" in stack.run(
        "webhooks", "create", "https://localhost/", "--event", "task.paused", code=1
    )
    stack.run("webhooks", "delete", made[0])
    assert json.loads(stack.run("webhooks", "list", "--json")) == []


def test_keys_are_made_listed_and_revoked(stack: StackProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new key opens what its scope says; revoked it opens nothing."""
    key = stack.run("keys", "create", "reader", "--scope", "tasks:read").strip()
    listed = {item["name"]: item for item in json.loads(stack.run("keys", "list", "--json"))}
    assert listed["reader"]["scopes"] == ["tasks:read"]
    monkeypatch.setitem(stack.env, "TASKRUNNER_API_KEY", key)
    stack.run("tasks", "list")
    assert "error: " in stack.run("start", "--", "true", code=1)
    monkeypatch.delitem(stack.env, "TASKRUNNER_API_KEY")
    stack.run("keys", "revoke", listed["reader"]["id"])
    monkeypatch.setitem(stack.env, "TASKRUNNER_API_KEY", key)
    assert "TASKRUNNER_API_KEY" in stack.run("tasks", "list", code=1)


def test_doctor_finds_the_running_stack_sound(stack: StackProcess) -> None:
    """API and node are found ready, and nothing is broken."""
    findings = {finding["check"]: finding for finding in json.loads(stack.run("doctor", "--json"))}
    assert findings["stack"]["state"] == "ok"
    assert "1 of 1 nodes ready" in findings["stack"]["says"]


def test_a_second_up_says_that_it_runs_already(stack: StackProcess) -> None:
    """It names the API of the first one, exits with 1, and the first one goes on."""
    printed = stack.run("up", code=1)
    assert "a stack runs already on" in printed
    assert json.loads((stack.data_dir / "address.json").read_text())["api"] in printed
    stack.run("tasks", "list")


async def test_replay_tells_a_history_that_still_fits_from_one_that_does_not(
    stack: StackProcess, tmp_path: Path
) -> None:
    """A history of this version replays; with one activity renamed it fails, is named, and the exit code is 1."""
    address = json.loads((stack.data_dir / "address.json").read_text())
    task = json.loads(stack.run("start", "--json", "--", "true"))
    client = await Client.connect(address["temporal"])
    history = await client.get_workflow_handle(task["workflow_id"]).fetch_history()
    (tmp_path / "same.json").write_text(history.to_json())
    assert "same.json" in stack.run("replay", str(tmp_path))
    (tmp_path / "other.json").write_text(history.to_json().replace('"create_workspace"', '"another_activity"'))
    results = {item["history"]: item for item in json.loads(stack.run("replay", "--json", str(tmp_path), code=1))}
    assert (results["same.json"]["ok"], results["other.json"]["ok"]) == (True, False)
    assert "another_activity" in results["other.json"]["failure"]


def test_no_secret_is_in_an_argument_list(stack: StackProcess) -> None:
    """What `ps` shows of the whole stack holds none of its secrets; a node has no database and no signing key."""
    secrets = [
        path.read_text().strip() for path in (*stack.data_dir.glob("*.key"), stack.data_dir / "postgres/password")
    ]
    shown = ""
    for process in stack.family():
        with suppress(psutil.ZombieProcess, psutil.NoSuchProcess):
            shown += " ".join(process.cmdline())
    assert len(secrets) == 5
    assert not [secret for secret in secrets if secret in shown]
    node = stack.child("worker --role node").environ()
    assert not {"TASKRUNNER_DATABASE_URL", "TASKRUNNER_CALLBACK_KEYS"} & {key for key, value in node.items() if value}


def test_what_dies_is_started_again_and_a_killed_stack_goes_on(tmp_path: Path) -> None:
    """A killed API comes back on its address; after kill -9 of all, `up` continues a task that waited and one that ran.

    The command that ran outlives the stack and is adopted: it ends in its first attempt. Who follows it sees the end.
    """
    stack = StackProcess(tmp_path / "data").up()
    go, script = tmp_path / "go", "until [ -e {} ]; do sleep 0.1; done; echo went on"
    running = stack.run("start", "--detach", "--", "sh", "-c", script.format(go)).strip()
    with remote(stack) as api:
        address = api.url
        task = waiting(api)
        while api.get(f"/v1/tasks/{running}")["step"] != "running":
            time.sleep(0.05)
    following = subprocess.Popen(
        [sys.executable, "-P", "-m", "cli.main", "tasks", "logs", running, "--follow"],
        env=stack.env,
        stdout=subprocess.PIPE,
        text=True,
    )
    stack.child("cli.main api").send_signal(signal.SIGKILL)
    stack.wait_for("API runs again")
    stack.run("tasks", "show", task["id"])

    stack.kill()
    stack.up()
    try:
        with remote(stack) as api:
            assert api.url == address
            call_back(api, task)
        followed = stack.run("tasks", "logs", task["id"], "--follow")
        shown = json.loads(stack.run("tasks", "show", task["id"], "--json"))
        assert (shown["status"], shown["result"], shown["attempt"]) == ("completed", {"went": "on"}, 1), followed
        go.touch()
        assert following.communicate(timeout=PATIENCE)[0] == "went on\n"
        shown = json.loads(stack.run("tasks", "show", running, "--json"))
        assert (shown["status"], shown["attempt"]) == ("completed", 1)
    finally:
        assert stack.stop() == 0


async def test_own_servers_are_used_instead_of_the_embedded_ones(
    tmp_path: Path, postgres: Postgres, own_temporal: TemporalDevServer
) -> None:
    """With both addresses in the environment nothing embedded is made, and a task runs on those servers.

    The API's port is taken meanwhile: the next one is used, and said. The Temporal is this test's own: the stack
    leaves its schedule there, whose sweeps would be taken up by another suite's worker, or by nobody.
    """
    await postgres.create_database("own")
    url = postgres.url("own")
    stack = StackProcess(tmp_path / "data", TASKRUNNER_DATABASE_URL=url, TEMPORAL_ADDRESS=own_temporal.address)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        wanted = taken.getsockname()[1]
        stack.env["TASKRUNNER_PORT"] = str(wanted)
        stack.up()
    try:
        assert stack.said[0].startswith(f"port {wanted} is taken: api is on ")
        task = json.loads(stack.run("start", "--json", "--", "true"))
        assert task["status"] == "completed"
        client = await Client.connect(own_temporal.address)
        described = await client.get_workflow_handle(task["workflow_id"]).describe()
        assert described.status
        assert not (tmp_path / "data" / "postgres").exists()
        assert not (tmp_path / "data" / "temporal.db").exists()
        broken = [f for f in json.loads(stack.run("doctor", "--json")) if f["state"] == "broken"]
        assert not broken
    finally:
        assert stack.stop() == 0


def test_ctrl_c_stops_the_demo_and_what_it_started(tmp_path: Path) -> None:
    """The running task is cancelled, so that no command outlives the stack; exit code 130."""
    env = StackProcess(tmp_path / "data", TMPDIR=str(tmp_path), PYTHONUNBUFFERED="1").env
    argv = [sys.executable, "-P", "-m", "cli.main", "demo", "--", "sh", "-c", "echo now; sleep 4711"]
    demo = subprocess.Popen(argv, env=env, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert demo.stdout
    while "now" not in (line := demo.stdout.readline()):
        assert line
    demo.send_signal(signal.SIGINT)
    printed, _ = demo.communicate(timeout=PATIENCE)
    assert demo.returncode == 130, printed
    assert not [process for process in psutil.process_iter(["cmdline"]) if "4711" in (process.info["cmdline"] or ())]
    assert not list(tmp_path.glob("taskrunner-demo-*"))


def test_the_demo_shows_a_real_task_and_leaves_nothing(tmp_path: Path) -> None:
    """This checkout is cloned and checked; token, patch, timings and the history's address are printed; exit 0."""
    demo = StackProcess(tmp_path / "data", cwd=tmp_path, TMPDIR=str(tmp_path))
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    printed = demo.run("demo", "--", sys.executable, "-c", "print('a real check')")
    token = printed.partition("'token': '")[2].partition("'")[0]
    assert len(token) == 16
    assert f"+The demo was here with the token {token}." in printed
    assert "a real check" in printed
    assert "changes.patch" in printed
    assert "/workflows/task-" in printed
    assert not list(tmp_path.glob("taskrunner-demo-*"))
    assert {process.pid for process in psutil.Process().children(recursive=True)} <= before
