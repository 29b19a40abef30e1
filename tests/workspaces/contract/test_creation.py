"""Creation, by every provider: one workspace however often, whoever dies meanwhile."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from domain.errors import Failure
from domain.ids import new_id
from domain.names import WorkspaceId
from tests.workspaces.conftest import CANARY, Bench, ContainerBench
from tests.workspaces.recording import until

# A node that is killed this long after it began to create.
NODE = """
import asyncio, json, os, signal, sys
from pathlib import Path
from domain.containers import Containers
from domain.messages import WorkspaceOrder
from workspaces.local import LocalProvider, base_environment
from workspaces.provider import Grant

async def main():
    told = json.loads(sys.argv[1])
    order, grant = WorkspaceOrder.model_validate(told["order"]), Grant(**told["grant"])
    root = Path(told["root"])
    if told["rules"]:
        from workspaces.docker import DockerProvider
        from workspaces.engine import connected
        rules = Containers.model_validate(told["rules"])
        async with connected(rules) as client:
            await end_within(DockerProvider(root, client=client, node=told["node"], rules=rules), order, grant)
    else:
        await end_within(LocalProvider(root, environment=base_environment(os.environ)), order, grant)

async def end_within(provider, order, grant):
    creating = asyncio.ensure_future(provider.create(order, grant))
    after = float(sys.argv[2])
    await (asyncio.wait({creating}, timeout=after) if after else creating)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def told(bench: Bench) -> str:
    """Give what a node needs to create this workspace."""
    containers: dict[str, Any] = {"rules": None, "node": ""}
    if isinstance(bench, ContainerBench):
        containers = {"rules": bench.rules.model_dump(mode="json"), "node": bench.node}
    grant = {"token": "first-token", "callback_url": bench.grant().callback_url}
    order = bench.order.model_dump(mode="json", exclude_defaults=True)
    return json.dumps({"order": order, "grant": grant, "root": str(bench.root), **containers})


async def test_creating_twice_is_one_workspace(bench: Bench) -> None:
    """Three creations at once and one later: one preparation, one `ready`, one entry of the list."""
    facts = await asyncio.gather(*(bench.provider.create(bench.order, bench.grant()) for _ in range(3)))
    await bench.api.one("ready")
    facts.append(await bench.provider.create(bench.order, bench.grant()))
    assert len({fact.details["pid"] for fact in facts}) == 1
    assert await bench.provider.list() == [bench.order.workspace_id]
    assert len(bench.api.of("ready")) == 1


@pytest.mark.parametrize("after", [0.02, 0.05, 0.1, 0.2, 0.4, 1.0, 0.0], ids=str)
async def test_a_creation_that_nobody_recorded_is_adopted(bench: Bench, after: float) -> None:
    """A node killed within its creation, or after it (0.0): the next creation leads to the one workspace."""
    bench.new(command=["true"], setup=[["sh", "-c", "echo once >> ../home/times"]])
    node = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", NODE, told(bench), str(after)], capture_output=True, check=False
    )
    assert node.returncode == -signal.SIGKILL, node.stderr
    await bench.provider.create(bench.order, bench.grant())
    await bench.api.one("ready")
    assert await bench.provider.list() == [bench.order.workspace_id]
    assert (bench.files / "home/times").read_text() == "once\n"


async def test_a_running_command_is_adopted(bench: Bench) -> None:
    """A second start finds the first one's command, and its end."""
    await bench.prepare(command=["sh", "-c", "until test -e go; do sleep 0.01; done; exit 7"])
    first = await bench.start()
    again = await bench.start()
    assert (again.adopted, again.pid) == (True, first.pid)
    waiting = asyncio.create_task(bench.exit())
    (bench.files / "work/go").touch()
    assert (await waiting).exit_code == 7


async def test_an_unknown_workspace_is_said_to_be_unknown(bench: Bench) -> None:
    """It does not exist, has no agent and takes no attachment; waiting for it finds it lost."""
    facts = await bench.provider.inspect(WorkspaceId(new_id()))
    assert (facts.exists, facts.details) == (False, {})
    with pytest.raises(Failure, match="not on this node"):
        await bench.start()
    assert (await bench.exit()).lost
    assert await bench.provider.list() == []


async def test_a_workspace_has_its_callback_environment(bench: Bench) -> None:
    """What it is told reaches the API as this workspace's own: address, token file, input, result and artifacts."""
    script = """
    import json, os, urllib.request as web
    e = os.environ
    request = web.Request(e["TASKRUNNER_CALLBACK_URL"] + "/progress", b"{}", method="POST")
    request.add_header("Authorization", "Bearer " + open(e["TASKRUNNER_TOKEN_FILE"]).read())
    web.urlopen(request)
    open(e["TASKRUNNER_RESULT_FILE"], "w").write(open(e["TASKRUNNER_INPUT_FILE"]).read())
    open(e["TASKRUNNER_ARTIFACTS_DIR"] + "/secret", "w").write(e["CANARY"])
    print(*(e["TASKRUNNER_" + name] for name in ("TASK_ID", "ATTEMPT", "TURN", "WORKSPACE_ID")))
    """
    code = "\n".join(line.removeprefix("    ") for line in script.splitlines())
    bench.new(command=["python3", "-c", code], input={"a": [1]}, secrets=["CANARY"])
    await bench.prepare()
    await bench.start()
    ended = await bench.exit()
    await bench.api.one("finished")
    assert (ended.exit_code, ended.result, ended.error) == (0, {"a": [1]}, None)
    (progress,) = bench.api.of("progress")
    assert progress.headers["Authorization"] == "Bearer token-of-turn-1"
    assert bench.api.artifacts == {"secret": CANARY.encode()}
    order = bench.order
    assert bench.api.log.decode().split() == [order.task_id, "1", "1", order.workspace_id]


async def test_a_turn_follows_a_turn(bench: Bench) -> None:
    """Given a followup, the message comes on standard input, in the same files, with a fresh token."""
    await bench.run("cat; echo turn $TASKRUNNER_TURN >> turns; cat turns")
    await until(lambda: len(bench.api.of("finished")) == 1)
    await bench.start(turn=2, prompt="say more\n")
    assert (await bench.exit(turn=2)).exit_code == 0
    await until(lambda: len(bench.api.of("finished")) == 2)
    assert bench.api.log == b"turn 1\nsay more\nturn 1\nturn 2\n"
    assert bench.api.of("finished")[1].headers["Authorization"] == "Bearer token-of-turn-2"


async def test_bad_input_makes_nothing(bench: Bench) -> None:
    """A missing secret is refused before anything is made."""
    bench.new(command=["true"], secrets=["ABSENT"])
    with pytest.raises(Failure, match="ABSENT"):
        await bench.provider.create(bench.order, bench.grant())
    assert await bench.provider.list() == []


async def test_a_command_that_dies_without_a_word_is_lost(bench: Bench) -> None:
    """Given that everything in the workspace was killed, waiting ends: lost, and nothing lives on."""
    await bench.prepare(command=["sleep", "60"])
    await bench.start()
    waiting = asyncio.create_task(bench.exit())
    for pid in bench.working:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert (await asyncio.wait_for(waiting, 60)).lost
    assert bench.working == []
