"""Callbacks against an API that fails, refuses, or has moved on."""

import json
import os
import shutil
import signal
import time
from datetime import timedelta

import pytest

from domain.errors import Category
from tests.workspaces.conftest import Bench
from tests.workspaces.recording import Answer, Request, until


async def test_ready_and_finished_wait_for_an_api_that_is_down(bench: Bench) -> None:
    """Nothing listens while the workspace gets ready, and again when the command ends: both calls arrive."""
    bench.new(command=["sh", "-c", "echo said; echo 5 > $TASKRUNNER_RESULT_FILE"])
    bench.api.shut()
    await bench.provider.create(bench.order, bench.grant())
    await until((bench.base / "control/prepare-1.exit.json").exists)
    bench.api.open()
    await bench.api.one("ready")
    bench.api.shut()
    await bench.start()
    await until(lambda: (bench.base / "control/output-a1.log").stat().st_size == 5)
    bench.api.open()
    finished = await bench.api.one("finished")
    assert finished.json == {"exit_code": 0, "result": 5, "error": None}
    assert bench.api.log == b"said\n"


async def test_exit_file_keeps_what_the_api_did_not_hear(bench: Bench) -> None:
    """Given an API that only ever answers 503, the turn's end is known from the file."""
    await bench.prepare(command=["sh", "-c", "echo '[7]' > $TASKRUNNER_RESULT_FILE; exit 9"])
    bench.order = bench.order.model_copy(update={"lease_seconds": 0.5})
    bench.api.rule = lambda _: 503
    await bench.start()
    ended = await bench.exit()
    assert (ended.exit_code, ended.result) == (9, [7])
    assert len(bench.living) == 1, "it still tries to tell"


async def test_nothing_is_told_by_a_workspace_whose_directory_is_gone(bench: Bench) -> None:
    """Given an API that never hears it, the program ends once its files are removed, instead of trying for a day."""
    await bench.prepare(command=["true"])
    bench.order = bench.order.model_copy(update={"lease_seconds": 0.5})
    bench.api.rule = lambda _: 503
    await bench.start()
    await bench.exit()
    assert len(bench.living) == 1
    shutil.rmtree(bench.base)
    await until(lambda: bench.living == [])


async def test_server_errors_are_tried_again(bench: Bench) -> None:
    """503 with Retry-After, 500, 429: tried until 200, no sooner than asked."""
    answers: list[Answer | int] = [(503, {"Retry-After": "1"}, b""), 500, 429]
    bench.api.rule = lambda request: answers.pop(0) if request.kind == "ready" and answers else None
    await bench.prepare()
    await until(lambda: len(bench.api.of("ready")) == 4)
    tries = [request.at for request in bench.api.of("ready")]
    assert tries[1] - tries[0] >= 1.0
    assert tries[3] - tries[1] < 3.0


@pytest.mark.parametrize("status", [401, 404, 409, 422])
async def test_refusals_are_final(bench: Bench, status: int) -> None:
    """One call, then the program ends."""
    bench.api.rule = lambda request: status if request.kind == "ready" else None
    await bench.provider.create(bench.order, bench.grant())
    await bench.api.one("ready")
    await until(lambda: bench.living == [])
    assert len(bench.api.of("ready")) == 1


async def test_gone_stops_the_agent(bench: Bench) -> None:
    """A 410 to a heartbeat ends the command; the exit file says so; `finished` is not posted."""
    bench.options["heartbeat"] = timedelta(seconds=0.1)
    await bench.prepare(command=["sleep", "300"])
    await bench.start()
    await bench.api.one("heartbeat")
    bench.api.rule = lambda _: 410
    ended = await bench.exit()
    assert ended.error is not None
    assert (ended.error.code, ended.error.category) == ("attempt_ended", Category.CANCELLED)
    await until(lambda: bench.living == [])
    assert bench.api.of("finished") == []


async def test_gone_stops_a_preparation(bench: Bench) -> None:
    """A 410 ends the setup, and neither `ready` nor `failed` comes."""
    bench.options["heartbeat"] = timedelta(seconds=0.1)
    bench.api.rule = lambda _: 410
    bench.new(command=["true"], setup=[["sleep", "300"]])
    await bench.provider.create(bench.order, bench.grant())
    await until(lambda: bench.living == [])
    assert bench.api.of("ready") == bench.api.of("failed") == []


async def test_agent_without_contact_stops_when_its_lease_ends(bench: Bench) -> None:
    """Given an API that vanished, the agent is ended after the lease, not before."""
    bench.options["heartbeat"] = timedelta(seconds=0.1)
    await bench.prepare(command=["sleep", "300"])
    bench.order = bench.order.model_copy(update={"lease_seconds": 1.0})
    await bench.start()
    await bench.api.one("heartbeat")
    bench.api.shut()
    silent = time.monotonic()
    ended = await bench.exit()
    assert 0.7 < time.monotonic() - silent < 3.0
    assert ended.error is not None
    assert (ended.error.code, ended.error.category) == ("lease_expired", Category.RUNTIME_LOST)
    assert ended.error.retryable
    bench.api.open()
    assert (await bench.api.one("finished")).json["error"]["code"] == "lease_expired"


async def test_agent_with_contact_outlives_its_lease(bench: Bench) -> None:
    """Heartbeats renew the lease, also when some of them fail."""
    bench.options["heartbeat"] = timedelta(seconds=0.1)
    number = iter(range(10_000))
    bench.api.rule = lambda request: 503 if request.kind == "heartbeat" and next(number) % 2 else None
    await bench.prepare(command=["sh", "-c", "sleep 1.5; exit 5"])
    bench.order = bench.order.model_copy(update={"lease_seconds": 0.8})
    await bench.start()
    assert (await bench.exit()).exit_code == 5


async def test_token_is_read_for_each_call(bench: Bench) -> None:
    """A token that is renewed while the agent runs is used at once."""
    bench.options["heartbeat"] = timedelta(seconds=0.05)
    await bench.prepare(command=["sleep", "300"])
    await bench.start()
    await bench.api.one("heartbeat")
    (bench.base / "control/token").write_text("renewed")

    def renewed(request: Request) -> bool:
        return request.headers["Authorization"] == "Bearer renewed"

    await until(lambda: any(renewed(request) for request in bench.api.of("heartbeat")))


async def test_sigterm_to_the_program_ends_the_agent(bench: Bench) -> None:
    """As when the machine shuts down: the exit file says that it was stopped, which a retry can help."""
    await bench.prepare(command=["sleep", "300"])
    started = await bench.start()
    assert started.pid is not None
    await until(lambda: len(bench.living) > 1)
    os.kill(started.pid, signal.SIGTERM)
    ended = await bench.exit()
    assert ended.error is not None
    assert (ended.error.code, ended.error.retryable) == ("stopped", True)
    await until(lambda: bench.living == [])


async def test_sigterm_after_the_command_ended_does_not_change_its_outcome(bench: Bench) -> None:
    """A stop while artifacts cannot be uploaded cuts the reporting short; exit code and result stay."""
    bench.api.rule = lambda request: 503 if request.method == "PUT" else None
    await bench.prepare(command=["sh", "-c", "echo x > $TASKRUNNER_ARTIFACTS_DIR/x; echo 1 > $TASKRUNNER_RESULT_FILE"])
    started = await bench.start()
    await until(lambda: "x" in bench.api.artifacts)
    assert started.pid is not None
    os.kill(started.pid, signal.SIGTERM)
    ended = await bench.exit()
    assert (ended.exit_code, ended.result, ended.error) == (0, 1, None)
    assert json.loads((bench.base / "control/agent-a1-t1.exit.json").read_text())["result"] == 1
