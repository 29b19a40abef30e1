"""Payload keys on the whole stack: what Temporal keeps cannot be read, and tasks live through a rotation."""

import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from google.protobuf import json_format
from pydantic import SecretStr
from temporalio.api.common.v1 import Payloads
from temporalio.client import Client, WorkflowHistory

from codec import data_converter
from tests.cli.stacks import StackProcess
from tests.security.scan import Scan
from tests.security.tasks import client_of, create, ended, until

FIRST, SECOND = f"first:{'ab' * 32}", f"second:{'cd' * 32}"
WORDS = {
    "name": "words-of-the-name",
    "prompt": "words-of-the-prompt",
    "command": "words-of-the-command",
    "input": "words-of-the-input",
    "error": "words-of-the-error",
    "output": "words-of-the-output",
    "reason": "words-of-the-failure",
    "result": "words-of-the-result",
}


@dataclass(kw_only=True)
class Stage:
    """A stack whose second life encrypts."""

    stack: StackProcess
    scan: Scan
    begun_plain: str
    begun_encrypted: str
    tasks: dict[str, str]


def claim(stack: StackProcess, task: str) -> tuple[str, dict[str, str]]:
    """Claim the token of a task that waits for it; give the callbacks' address and the header."""
    with client_of(stack) as client:
        workspace = until(lambda: client.get(f"/v1/tasks/{task}").json()["workspace_id"])
        token = client.post(f"/v1/workspaces/{workspace}/callback-token").json()["token"]
    return f"/v1/workspaces/{workspace}", {"Authorization": f"Bearer {token}"}


@pytest.fixture(scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    """Begin a task without keys; go on with the first key and begin others; go on with the second key before it."""
    data = tmp_path_factory.mktemp("encrypted") / "data"
    stack = StackProcess(data).up()
    with client_of(stack) as client:
        begun_plain = create(client, command=["true"], provider="external", name="begun without a key")
        until(lambda: client.get(f"/v1/tasks/{begun_plain}").json()["workspace_id"])
    assert stack.stop() == 0

    stack.env["TASKRUNNER_PAYLOAD_KEYS"] = FIRST
    stack.env["TASKRUNNER_NODE_PRESETS"] = json.dumps({"shell": ["sh", "-c", "cat > /dev/null"]})
    stack.up()
    with client_of(stack) as client:
        told = f'printf \'{{"told": "{WORDS["result"]}"}}\' > "$TASKRUNNER_RESULT_FILE"; : {WORDS["command"]}'
        shouts = f"echo {WORDS['error']} >&2; exit 4"
        tasks = {
            "command": create(client, name=WORDS["name"], command=["sh", "-c", told], input=WORDS["input"]),
            "agent": create(client, agent={"preset": "shell", "prompt": WORDS["prompt"]}),
            "setup": create(client, command=["true"], setup=[["sh", "-c", shouts]]),
            "unknown": create(client, agent={"preset": WORDS["reason"], "prompt": "x"}),
        }
        outcomes = {name: ended(client, task)["outcome"] for name, task in tasks.items()}
        assert outcomes == {"command": "completed", "agent": "completed", "setup": "failed", "unknown": "failed"}
        begun_encrypted = create(client, command=["true"], provider="external", name=WORDS["name"])
        until(lambda: client.get(f"/v1/tasks/{begun_encrypted}").json()["workspace_id"])
    assert stack.stop() == 0

    stack.env["TASKRUNNER_PAYLOAD_KEYS"] = f"{SECOND},{FIRST}"
    stack.up()
    yield Stage(
        stack=stack,
        scan=Scan(stack=stack, texts=WORDS),
        begun_plain=begun_plain,
        begun_encrypted=begun_encrypted,
        tasks=tasks,
    )
    assert stack.stop() == 0


@pytest.mark.parametrize("which", ["begun_plain", "begun_encrypted"])
def test_a_task_goes_on_under_another_key(stage: Stage, which: str) -> None:
    """Begun without a key, or under the one that is now the second: both are completed in their first attempt."""
    task = str(getattr(stage, which))
    address, token = claim(stage.stack, task)
    with client_of(stage.stack) as client:
        body = {"exit_code": 0, "result": {"went": WORDS["output"]}}
        assert client.post(f"{address}/finished", json=body, headers=token).status_code == 200
        shown = ended(client, task)
    assert (shown["status"], shown["attempt"], shown["result"]) == ("completed", 1, {"went": WORDS["output"]})


async def test_histories_hold_no_word_of_a_task(stage: Stage) -> None:
    """No prompt, command, name, input, result or error in any event, summary, description or listing."""
    assert await stage.scan.histories() == []


def test_temporals_own_file_holds_no_word_of_a_task(stage: Stage) -> None:
    """Neither it nor its write-ahead log."""
    left = [found for found in stage.scan.files() if found.where.startswith("temporal")]
    assert left == []
    assert (stage.stack.data_dir / "temporal.db").exists()


def test_the_mirror_still_says_why(stage: Stage) -> None:
    """Encryption ends at Temporal: the API shows name, error and result as ever."""
    with client_of(stage.stack) as client:
        shown = {name: client.get(f"/v1/tasks/{task}").json() for name, task in stage.tasks.items()}
    assert (shown["command"]["name"], shown["command"]["result"]) == (WORDS["name"], {"told": WORDS["result"]})
    assert WORDS["error"] in shown["setup"]["error"]["message"]
    assert WORDS["reason"] in shown["unknown"]["error"]["message"]


async def test_who_has_the_keys_reads_the_history(stage: Stage) -> None:
    """A client with both reads summary and failure; one without them gets neither."""
    workflow = f"task-{stage.tasks['setup']}-a1"
    converter = data_converter(SecretStr(f"{SECOND},{FIRST}"))
    client = await Client.connect(stage.scan.address["temporal"], data_converter=converter)
    described = await client.get_workflow_handle(workflow).describe()
    assert await described.static_summary() == "true · attempt 1"
    blind = await Client.connect(stage.scan.address["temporal"])
    events = (await blind.get_workflow_handle(workflow).fetch_history()).events
    failed = events[-1].workflow_execution_failed_event_attributes.failure
    assert failed.message == "Encoded failure"


async def test_replay_needs_the_keys(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`taskrunner replay` follows an encrypted history with them, and names the key that it lacks without them."""
    client = await Client.connect(stage.scan.address["temporal"])
    history = await client.get_workflow_handle(f"task-{stage.tasks['command']}-a1").fetch_history()
    (tmp_path / "one.json").write_text(WorkflowHistory(history.workflow_id, history.events).to_json())
    stage.stack.run("replay", str(tmp_path))
    monkeypatch.setitem(stage.stack.env, "TASKRUNNER_PAYLOAD_KEYS", SECOND)
    assert "payload key 'first' is not among" in stage.stack.run("replay", "--json", str(tmp_path), code=1)


async def test_the_codec_endpoint_decodes_for_an_operator(stage: Stage) -> None:
    """As Temporal's CLI and UI ask it: an admin of `default`; only the configured UI's pages may read the answer."""
    client = await Client.connect(stage.scan.address["temporal"])
    ui = stage.scan.address["temporal_ui"]
    history = await client.get_workflow_handle(f"task-{stage.tasks['command']}-a1").fetch_history()
    payloads = history.events[0].workflow_execution_started_event_attributes.input
    document = json_format.MessageToDict(payloads)
    with client_of(stage.stack) as admin:
        answer = admin.post("/v1/codec/decode", json=document, headers={"Origin": ui})
        plain = json_format.ParseDict(answer.json(), Payloads())
        assert WORDS["command"].encode() in plain.payloads[0].data
        assert answer.headers["access-control-allow-origin"] == ui
        elsewhere = admin.post("/v1/codec/decode", json=document, headers={"Origin": "http://evil.example"})
        assert "access-control-allow-origin" not in elsewhere.headers
        asked = {"Origin": ui, "Access-Control-Request-Method": "POST"}
        preflight = admin.request("OPTIONS", "/v1/codec/decode", headers=asked | {"Authorization": ""})
        assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (204, ui)
        made = {"name": "x", "scopes": ["admin"], "project": "other"}
        other = admin.post("/v1/keys", json=made).json()["key"]
        refused = admin.post("/v1/codec/decode", json=document, headers={"Authorization": f"Bearer {other}"})
        assert refused.status_code == 403
        forged = {"payloads": [document["payloads"][0] | {"data": base64.b64encode(b"x" * 60).decode()}]}
        bad = admin.post("/v1/codec/decode", json=forged)
        assert (bad.status_code, bad.json()["code"]) == (422, "undecodable")


def test_the_keys_are_in_no_argument_and_no_log(stage: Stage) -> None:
    """They are in the environment of those who read and write histories, and Temporal itself has not got them."""
    keys = Scan(stack=stage.stack, texts={"first": "ab" * 32, "second": "cd" * 32})
    assert {found.where for found in keys.processes()} == {
        f"environment of {role}" for role in ("up", "control", "node", "api")
    }
    assert keys.files() == []
    assert keys.database() == []
