"""The log: every byte at its offset, bounded, and never a reason for a command to block."""

from tests.workspaces.conftest import Bench
from tests.workspaces.recording import until


async def test_log_is_posted_while_the_command_runs(bench: Bench) -> None:
    """A line is at the API long before the command ends."""
    await bench.prepare(command=["sh", "-c", "echo early; until test -e go; do sleep 0.01; done; echo late >&2"])
    await bench.start()
    await until(lambda: bench.api.log == b"early\n")
    (bench.base / "work/go").touch()
    await bench.exit()
    await bench.api.one("finished")
    assert bench.api.log == b"early\nlate\n"


async def test_log_is_truncated_at_its_limit_and_says_so(bench: Bench) -> None:
    """The command writes a hundred times the limit and ends well; the log ends with one line that tells."""
    ended = await bench.run("yes 0123456789 | head -c 10000000", limits={"log_limit": 100_000})
    assert ended.exit_code == 0
    log = bench.api.log
    assert len(log) == 100_000
    assert log.startswith(b"0123456789\n")
    assert log.endswith(b"\n[truncated: this attempt's log holds no more than 100000 bytes]\n")
    assert log.count(b"truncated") == 1
    assert all(len(request.body) <= 64_000 for request in bench.api.of("logs"))


async def test_limit_is_the_attempts_not_the_turns(bench: Bench) -> None:
    """Setup and turns share one log; what comes after the truncation is not in it."""
    setup = [["sh", "-c", "yes | head -c 5000"]]
    await bench.run("echo never seen", limits={"log_limit": 1000}, setup=setup)
    assert len(bench.api.log) == 1000
    assert b"never seen" not in bench.api.log


async def test_log_that_the_api_missed_is_posted_by_the_next_session(bench: Bench) -> None:
    """Given an API that refuses the setup's log, the turn posts it from where it stopped."""
    bench.api.rule = lambda request: 403 if request.kind == "logs" else None
    await bench.prepare(command=["echo", "turn"], setup=[["echo", "setup"]])
    refused = len(bench.api.of("logs"))
    assert refused > 0
    bench.api.requests[:] = []
    bench.api.rule = lambda _: None
    await bench.start()
    await bench.exit()
    await bench.api.one("finished")
    assert bench.api.log.startswith(b"[taskrunner] setup: ['echo', 'setup']\nsetup\n")
    assert bench.api.log.endswith(b"turn\n")


async def test_output_is_raw_bytes(bench: Bench) -> None:
    """What is not text arrives as it was written."""
    await bench.run("printf '\\000\\377\\n'")
    assert bench.api.log == b"\0\xff\n"
