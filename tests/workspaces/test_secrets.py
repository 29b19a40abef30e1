"""Secrets: where values come from, what is refused, and that none is left anywhere."""

import asyncio
import subprocess
from pathlib import Path

import pytest

from domain.errors import Category, Failure
from tests.workspaces.conftest import CANARY, Bench, Origin
from tests.workspaces.recording import until
from workspaces.secrets import Secrets


def private(path: Path, text: str) -> Path:
    """Write a file for its owner only."""
    path.write_text(text)
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(
    "text",
    ['{"KEY": "v=1", "B": "x"}', "# comment\n\nKEY=v=1\nB=x\n", " KEY = v=1 \r\n"],
    ids=["json", "lines", "crlf"],
)
def test_file_is_json_or_lines(tmp_path: Path, text: str) -> None:
    """Both forms give the same; values may hold an equals sign."""
    assert Secrets(file=private(tmp_path / "s", text)).values(["KEY"]) == {"KEY": "v=1"}


def test_file_wins_over_environment(tmp_path: Path) -> None:
    """The environment needs the prefix, and fills what the file lacks."""
    environment = {"TASKRUNNER_SECRET_KEY": "env", "TASKRUNNER_SECRET_MORE": "more", "OTHER": "no"}
    secrets = Secrets(file=private(tmp_path / "s", "KEY=file"), environment=environment)
    assert secrets.values(["KEY", "MORE"]) == {"KEY": "file", "MORE": "more"}
    with pytest.raises(Failure, match="OTHER, ABSENT"):
        secrets.values(["OTHER", "ABSENT"])


def test_rotated_file_counts_at_once(tmp_path: Path) -> None:
    """A value is read when it is needed; a file that does not exist yet holds none."""
    secrets = Secrets(file=tmp_path / "s")
    with pytest.raises(Failure, match="KEY"):
        secrets.values(["KEY"])
    private(tmp_path / "s", "KEY=1")
    assert secrets.values(["KEY"]) == {"KEY": "1"}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    """The sentence names the file and the cure, not its content."""
    path = private(tmp_path / "node-secrets", "KEY=1")
    path.chmod(mode)
    with pytest.raises(Failure, match="node-secrets can be read by others") as caught:
        Secrets(file=path).values(["KEY"])
    assert caught.value.error.category is Category.INFRASTRUCTURE
    assert "chmod 600" in caught.value.error.guidance


@pytest.mark.parametrize("text", ["{broken", '{"KEY": 1}', "KEY"])
def test_file_that_is_neither_form_is_refused_without_quoting_it(tmp_path: Path, text: str) -> None:
    """A message never holds what stands in the file."""
    with pytest.raises(Failure) as caught:
        Secrets(file=private(tmp_path / "s", text)).values(["X"])
    assert caught.value.error.code == "secrets_file_unusable"
    assert text not in caught.value.error.message


async def test_no_argv_file_or_request_of_ours_holds_a_secret(bench: Bench, origin: Origin) -> None:
    """Given a task that uses its secret but does not print it: argv of all processes, every file, every request."""
    bench.new(
        command=["sh", "-c", 'test -n "$CANARY" || exit 1; until test -e go; do sleep 0.01; done; rm go'],
        repo={"url": origin.url, "credential": "CANARY"},
        setup=[["sh", "-c", 'test -n "$CANARY"']],
        secrets=["CANARY"],
    )
    assert (await bench.prepare()).kind == "ready"
    await bench.start()
    await until(lambda: len(bench.living) > 1)
    listed = await asyncio.to_thread(subprocess.run, ["ps", "axww"], capture_output=True, text=True, check=True)
    (bench.base / "work/go").touch()
    assert (await bench.exit()).exit_code == 0
    await bench.api.one("finished")
    assert CANARY not in listed.stdout
    for path in bench.root.rglob("*"):
        assert CANARY not in str(path)
        assert not path.is_file() or CANARY.encode() not in path.read_bytes(), path
    for request in bench.api.requests:
        assert CANARY not in f"{request.path}{request.headers}"
        assert CANARY.encode() not in request.body
