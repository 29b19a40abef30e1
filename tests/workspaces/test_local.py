"""The local provider: one workspace through its life, with real processes."""

import asyncio
import json
import os
import signal
import sys
from typing import Any

import pytest

from domain.errors import Category, Failure
from domain.names import WorkspaceId
from tests.workspaces.conftest import Bench
from tests.workspaces.recording import until
from workspaces import processes


async def test_task_runs_from_creation_to_its_end(bench: Bench) -> None:
    """Ready comes from the prepared workspace, finished after the exit file, with exit code and result."""
    exit_ = await bench.run('echo hello; echo \'{"answer": 42}\' > "$TASKRUNNER_RESULT_FILE"; exit 3', input={"a": [1]})
    assert (exit_.exit_code, exit_.result, exit_.error, exit_.lost) == (3, {"answer": 42}, None, False)
    ready, finished = bench.api.of("ready"), bench.api.of("finished")
    assert [request.json for request in ready] == [{"status": "running", "details": {}}]
    assert [request.json for request in finished] == [{"exit_code": 3, "result": {"answer": 42}, "error": None}]
    assert ready[0].headers["Authorization"] == "Bearer first-token"
    assert finished[0].headers["Authorization"] == "Bearer token-of-turn-1"
    assert bench.api.log == b"hello\n"


async def test_command_gets_the_environment_of_the_contract_and_nothing_else(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PATH, HOME, locale, the task's env and secrets, TASKRUNNER_ files; no variable of the node leaks in."""
    monkeypatch.setenv("NODE_ONLY", "leak")
    script = (
        "env > $TASKRUNNER_ARTIFACTS_DIR/env; pwd > $TASKRUNNER_ARTIFACTS_DIR/pwd;"
        "cp $TASKRUNNER_INPUT_FILE $TASKRUNNER_ARTIFACTS_DIR/input; stat -c %a $TASKRUNNER_TOKEN_FILE $HOME/../control"
    )
    await bench.run(script, env={"MINE": "yes"}, secrets=["CANARY"], input={"upstream": []})
    lines = bench.api.artifacts["env"].decode().splitlines()
    given = dict(line.split("=", 1) for line in lines)
    base, order = bench.base, bench.order
    expected = {
        "HOME": str(base / "home"),
        "MINE": "yes",
        "CANARY": "canary-7c1f-value",
        "TASKRUNNER_TASK_ID": order.task_id,
        "TASKRUNNER_ATTEMPT": "1",
        "TASKRUNNER_TURN": "1",
        "TASKRUNNER_WORKSPACE_ID": order.workspace_id,
        "TASKRUNNER_CALLBACK_URL": f"{bench.api.url}/v1/workspaces/{order.workspace_id}",
        "TASKRUNNER_TOKEN_FILE": str(base / "control/token"),
        "TASKRUNNER_INPUT_FILE": str(base / "control/input.json"),
        "TASKRUNNER_RESULT_FILE": str(base / "control/result.json"),
        "TASKRUNNER_ARTIFACTS_DIR": str(base / "artifacts"),
        "TASKRUNNER_ATTACHMENTS_DIR": str(base / "attachments"),
    }
    assert expected.items() <= given.items()
    assert set(given) - set(expected) <= {"PATH", "LANG", "LC_ALL", "PWD", "SHLVL", "_", "OLDPWD"}
    assert bench.api.artifacts["pwd"].decode().strip() == str(base / "work")
    assert json.loads(bench.api.artifacts["input"]) == {"upstream": []}
    assert bench.api.log == b"600\n700\n"


async def test_settings_let_variables_of_the_node_through(bench: Bench) -> None:
    """A name that settings allow reaches the command."""
    from workspaces.local import base_environment  # noqa: PLC0415

    node = {"PATH": os.environ["PATH"], "PROXY": "http://proxy.invalid", "OTHER": "no"}
    bench.options["environment"] = base_environment(node, allowed=["PROXY", "ABSENT"])
    await bench.run("echo $PROXY $OTHER $LANG")
    assert bench.api.log == b"http://proxy.invalid C.UTF-8\n"


async def test_creation_is_idempotent(bench: Bench) -> None:
    """Ten creations at once and one later make one preparation and one ready."""
    facts = await asyncio.gather(*(bench.provider.create(bench.order, bench.grant()) for _ in range(10)))
    await bench.api.one("ready")
    facts.append(await bench.provider.create(bench.order, bench.grant()))
    assert len({fact.details["pid"] for fact in facts}) == 1
    await until(lambda: bench.living == [])
    assert len(bench.api.of("ready")) == 1


async def test_preparation_that_died_without_a_word_is_begun_again(bench: Bench) -> None:
    """A second creation after a kill -9 of the preparation prepares anew and calls ready."""
    bench.new(command=["true"], setup=[["sh", "-c", "test -e ../home/again || { touch ../home/again; sleep 60; }"]])
    first = await bench.provider.create(bench.order, bench.grant())
    await until((bench.base / "home/again").exists)
    os.kill(int(str(first.details["pid"])), signal.SIGKILL)
    lock = bench.base / "control/prepare-1.lock"
    await until(lambda: not processes.held(lock))
    await bench.provider.create(bench.order, bench.grant())
    assert (await bench.api.one("ready", "failed")).kind == "ready"


async def test_ten_starts_at_once_make_one_agent(bench: Bench) -> None:
    """One start is the first, the others adopt it; the command ran once."""
    await bench.prepare(command=["sh", "-c", "echo ran"])
    started = await asyncio.gather(*(bench.start() for _ in range(10)))
    assert len({start.pid for start in started}) == 1
    assert sum(not start.adopted for start in started) == 1
    assert (await bench.exit()).exit_code == 0
    await bench.api.one("finished")
    assert bench.api.log == b"ran\n"


async def test_creation_that_comes_after_the_destruction_makes_nothing(bench: Bench) -> None:
    """A cancel may destroy a workspace whose creation is still under way: the late creation is refused."""
    bench.new(command=["true"])
    await bench.provider.destroy(bench.order.workspace_id)
    with pytest.raises(Failure):
        await bench.provider.create(bench.order, bench.grant())
    assert await bench.provider.list() == []


async def test_unknown_workspace_is_destroyed_in_peace(bench: Bench) -> None:
    """Nothing to destroy is no error; to start in it is one."""
    assert (await bench.provider.destroy(WorkspaceId("never-seen"))).details == {"ended": 0, "kept": False}
    with pytest.raises(Failure) as caught:
        await bench.start()
    assert caught.value.error.code == "workspace_gone"


async def test_kept_workspace_keeps_files_for_the_next_attempt_only(bench: Bench) -> None:
    """The files stay, the processes and the token go; the same attempt cannot go on, a later one can."""
    await bench.prepare(command=["sh", "-c", "echo $TASKRUNNER_ATTEMPT >> attempts; test -e ../home/go || sleep 120"])
    await bench.start()
    await until((bench.base / "work/attempts").exists)
    kept = await bench.provider.destroy(bench.order.workspace_id, keep=True)
    assert kept.details["kept"] is True
    assert bench.living == []
    assert not (bench.base / "control/token").exists()
    with pytest.raises(Failure):
        await bench.start()
    (bench.base / "home/go").touch()
    bench.order = bench.order.model_copy(update={"attempt": 2})
    assert (await bench.start()).adopted is False
    assert (await bench.exit()).exit_code == 0
    assert (bench.base / "work/attempts").read_text() == "1\n2\n"


async def test_kept_workspace_whose_agent_never_started_refuses_its_old_attempt(bench: Bench) -> None:
    """A start that comes late, after the third attempt was stopped in its setup, starts nothing."""
    bench.new(command=["true"], attempt=3)
    await bench.prepare()
    await bench.provider.destroy(bench.order.workspace_id, keep=True)
    with pytest.raises(Failure, match="stopped for good"):
        await bench.start()


async def test_inspect_and_list_say_what_is_here(bench: Bench) -> None:
    """Sessions are running, ended or lost; ids come from the directories."""
    await bench.prepare(command=["sleep", "60"])
    started = await bench.start()
    facts = await bench.provider.inspect(bench.order.workspace_id)
    assert facts.details["sessions"] == {"agent-a1-t1": "running", "prepare-1": "ended"}
    assert await bench.provider.list() == [bench.order.workspace_id]
    assert started.pid is not None
    os.kill(started.pid, signal.SIGKILL)
    assert (await bench.exit()).lost
    facts = await bench.provider.inspect(bench.order.workspace_id)
    assert facts.details["sessions"] == {"agent-a1-t1": "lost", "prepare-1": "ended"}


@pytest.mark.parametrize("name", ["..", "a/b", "", ".hidden", "x" * 200])
async def test_id_cannot_lead_out_of_the_root(bench: Bench, name: str) -> None:
    """An id becomes a directory's name only if it is one."""
    with pytest.raises(Failure):
        await bench.provider.inspect(WorkspaceId(name))


async def test_followup_is_a_turn_of_its_own(bench: Bench) -> None:
    """The message comes on standard input, the log goes on at its offset, an old result is not taken again."""
    script = 'cat; echo turn $TASKRUNNER_TURN; test $TASKRUNNER_TURN = 2 || echo 1 > "$TASKRUNNER_RESULT_FILE"'
    first = await bench.run(script)
    await until(lambda: bench.living == [])
    await bench.start(turn=2, prompt="say more\n")
    second = await bench.exit(turn=2)
    await until(lambda: len(bench.api.of("finished")) == 2)
    assert (first.result, second.result) == (1, None)
    assert bench.api.log == b"turn 1\nsay more\nturn 2\n"


@pytest.mark.parametrize("template", [["cat", "--", "/dev/null", "{prompt}"], ["cat"]], ids=["argument", "stdin"])
async def test_agent_is_a_preset_with_its_prompt(bench: Bench, template: list[str]) -> None:
    """The prompt is one argument where the template says so, and comes on standard input elsewhere."""
    bench.options["presets"] = {"reader": template}
    (bench.root.parent / "it is; $(here)").write_text("it is; $(here)")
    prompt = "it is; $(here)" if template == ["cat"] else str(bench.root.parent / "it is; $(here)")
    await bench.prepare(agent={"preset": "reader", "prompt": prompt})
    await bench.start()
    assert (await bench.exit()).exit_code == 0
    await bench.api.one("finished")
    assert bench.api.log == b"it is; $(here)"


@pytest.mark.parametrize(
    ("spec", "code", "named"),
    [
        ({"command": ["true"], "secrets": ["ABSENT"]}, "missing_secret", "ABSENT"),
        ({"agent": {"preset": "nobody", "prompt": "x"}}, "unknown_preset", "nobody"),
        ({"command": ["true"], "repo": {"url": "file:///tmp/x"}}, "protocol_not_allowed", "file"),
        ({"command": ["true"], "repo": {"url": "https://x.invalid/y", "credential": "KEY"}}, "missing_secret", "KEY"),
    ],
)
async def test_bad_input_fails_before_anything_is_made(
    bench: Bench, spec: dict[str, Any], code: str, named: str
) -> None:
    """Category `input`, the culprit's name, a sentence that tells what to do; no directory, no process."""
    bench.options["allow_file_urls"] = False
    bench.new(**spec)
    with pytest.raises(Failure, match=named) as caught:
        await bench.provider.create(bench.order, bench.grant())
    assert (caught.value.error.code, caught.value.error.category) == (code, Category.INPUT)
    assert caught.value.error.guidance
    assert not caught.value.error.retryable
    assert not bench.base.exists()


@pytest.mark.parametrize(
    ("command", "code", "exit_code"),
    [
        (["no-such-program"], "executable_not_found", 127),
        (["./no-such-program"], "executable_not_found", 127),
        (["/etc/passwd"], "executable_not_started", 126),
        (["true", "x" * 131_072], "executable_not_started", 126),
    ],
)
async def test_command_that_cannot_start_says_why(bench: Bench, command: list[str], code: str, exit_code: int) -> None:
    """Category `input`, a shell's exit code, the name of the executable."""
    bench.new(command=command)
    await bench.prepare()
    await bench.start()
    ended = await bench.exit()
    assert ended.error is not None
    assert (ended.error.code, ended.error.category, ended.exit_code) == (code, Category.INPUT, exit_code)
    assert command[0] in ended.error.message
    assert (await bench.api.one("finished")).json["error"]["code"] == code


@pytest.mark.parametrize(
    ("resources", "script", "said"),
    [
        ({"cpu_seconds": 1}, "while :; do :; done", "SIGXCPU. It had used up `cpu_seconds`."),
        ({"disk_mb": 1}, "head -c 3000000 /dev/zero > big; exec sh -c 'kill -XFSZ $$'", "SIGXFSZ. It wrote a file"),
        ({}, "kill -9 $$", "SIGKILL"),
    ],
)
async def test_limits_and_signals_are_told(bench: Bench, resources: dict[str, int], script: str, said: str) -> None:
    """The exit code is 128 + n, the error names the signal and the limit that it stands for."""
    ended = await bench.run(script, resources=resources)
    assert ended.error is not None
    assert ended.exit_code is not None
    assert ended.exit_code > 128
    assert ended.error.code == "killed_by_signal"
    assert said in ended.error.message


async def test_memory_is_limited(bench: Bench) -> None:
    """A process that wants more than `memory_mb` does not get it."""
    script = f"exec {sys.executable} -c 'bytearray(300_000_000)'"
    ended = await bench.run(script, resources={"memory_mb": 200})
    assert ended.exit_code == 1
    assert b"MemoryError" in bench.api.log


async def test_exit_code_above_128_of_its_own_is_no_signal(bench: Bench) -> None:
    """A command may exit with 137 by itself."""
    ended = await bench.run("exit 137")
    assert (ended.exit_code, ended.error) == (137, None)
