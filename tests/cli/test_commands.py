import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cli.data_dir import DataDirError
from cli.main import app
from cli.remote import RemoteError
from cli.screen import coloured, escape, table


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give an empty data directory, and an environment that names no server."""
    for name in list(os.environ):
        if name.startswith(("TASKRUNNER_", "TEMPORAL_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TASKRUNNER_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


def run(*arguments: str) -> Result:
    """Run one command in this process."""
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.usefixtures("data_dir")
def test_without_a_stack_a_command_says_how_to_start_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the address that does not answer and both ways out."""
    monkeypatch.setenv("TASKRUNNER_URL", "http://127.0.0.1:1")
    error = run("tasks", "list").exception
    assert isinstance(error, RemoteError)
    assert "no API answers at http://127.0.0.1:1" in str(error)
    assert "`taskrunner up`" in str(error)
    assert "TASKRUNNER_URL" in str(error)


@pytest.mark.usefixtures("data_dir")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("start",), "Missing argument"),
        (("start", "--ref", "main", "--", "true"), "--ref needs --repo"),
        (("start", "--input", "{", "--", "true"), "--input: "),
        (("start", "--input", "@/no/such/file", "--", "true"), "--input: "),
        (("start", "--env", "NAME", "--", "true"), "--env takes NAME=VALUE"),
        (("start", "--priority", "9", "--", "true"), "--priority"),
        (("nodes", "join", "--label", "=x"), "a label is NAME=VALUE, which this is not: '=x'"),
        (("nodes", "join", "--token-file", "/no/such/file"), "/no/such/file: No such file"),
        (("nodes", "join", "--token-file", sys.executable), "this is no text, and so no token"),
        (("replay", "/no/such/folder"), "does not exist"),
        (("db", "upgrade"), "set TASKRUNNER_DATABASE_URL"),
    ],
)
def test_a_wrong_use_is_told_with_exit_code_2(arguments: tuple[str, ...], says: str) -> None:
    """Nothing is sent anywhere, and the sentence names the option."""
    result = run(*arguments)
    assert result.exit_code == 2
    assert says in result.output.replace("\n", " ").replace("│", "")


def test_settings_that_contradict_each_other_refuse_to_start(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`up` ends with both settings named, before it makes anything."""
    monkeypatch.setenv("TASKRUNNER_SUPERVISION__LEASE", "300")
    result = run("up")
    assert result.exit_code == 2
    assert "SUPERVISION__LEASE" in result.output
    assert "SUPERVISION__LOST_AFTER" in result.output
    assert "Value error" not in result.output
    assert not (data_dir / "postgres").exists()


@pytest.mark.parametrize(
    ("name", "value", "arguments", "says"),
    [
        ("TASKRUNNER_NODE_LABELS", "x", ("worker",), "TASKRUNNER_NODE_LABELS: is not JSON"),
        ("TASKRUNNER_PROVISIONING__LABELS", "x", ("worker",), "PROVISIONING"),
        ("TASKRUNNER_NODE_PROVIDERS", '["x"]', ("worker",), "Input should be 'local' or 'docker'"),
        ("TASKRUNNER_DATABASE_URL", "", ("api",), "set TASKRUNNER_DATABASE_URL"),
        ("TASKRUNNER_DATABASE_URL", "", ("worker",), "set TASKRUNNER_DATABASE_URL"),
        ("TASKRUNNER_DATABASE_URL", "nonsense", ("api",), "must be postgresql+psycopg://"),
        ("TASKRUNNER_DATABASE_URL", "postgresql://h/n", ("worker",), "must be postgresql+psycopg://"),
        ("TASKRUNNER_DATABASE_URL", "postgresql+psycopg://h:x/n", ("worker",), "must be postgresql+psycopg://"),
    ],
)
@pytest.mark.usefixtures("data_dir")
def test_a_setting_that_is_wrong_is_told_with_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, arguments: tuple[str, ...], says: str
) -> None:
    """One line that names the setting, before anything is started."""
    monkeypatch.setenv(name, value)
    result = run(*arguments)
    assert (result.exit_code, result.exception.__class__) == (2, SystemExit)
    assert says in result.output
    assert len(result.output.splitlines()) == 1


@pytest.mark.usefixtures("data_dir")
def test_a_worker_without_temporal_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The address at which nobody answers, and exit code 1."""
    monkeypatch.setenv("TASKRUNNER_DATABASE_URL", "postgresql+psycopg://u@127.0.0.1:1/n")
    monkeypatch.setenv("TASKRUNNER_METRICS_PORT", "")
    monkeypatch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")
    result = run("worker")
    assert (result.exit_code, result.exception.__class__) == (1, SystemExit)
    assert "Temporal does not answer at 127.0.0.1:1" in result.output


def test_a_data_directory_that_cannot_be_used_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in its place: `up` names it; other commands find no key there, and say what they can."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TASKRUNNER_URL", "http://127.0.0.1:1")
    error = run("up", "--data-dir", str(tmp_path / "file")).exception
    assert isinstance(error, DataDirError)
    assert str(tmp_path / "file") in str(error)
    assert isinstance(run("tasks", "list", "--data-dir", str(tmp_path / "file")).exception, RemoteError)


@pytest.mark.parametrize("key", ["a\nb", "é", "a b"])
@pytest.mark.usefixtures("data_dir")
def test_what_no_header_can_hold_is_no_key(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """The sentence names the variable, and not what it holds."""
    monkeypatch.setenv("TASKRUNNER_API_KEY", key)
    error = run("tasks", "list").exception
    assert isinstance(error, RemoteError)
    assert "TASKRUNNER_API_KEY is no API key" in str(error)
    assert key not in str(error)


def test_doctor_finds_a_sound_machine(data_dir: Path) -> None:
    """With the extra installed nothing is broken; that no stack runs is a note with what to type."""
    result = run("doctor", "--json")
    findings = {finding["check"]: finding for finding in json.loads(result.output)}
    assert result.exit_code == 0
    assert {findings[check]["state"] for check in ("python", "git", "settings", "data", "postgresql", "temporal")} == {
        "ok"
    }
    assert "PostgreSQL) 18" in findings["postgresql"]["says"]
    assert findings["stack"]["state"] == "note"
    assert findings["stack"]["mend"] == "start one with `taskrunner up`"
    assert not data_dir.exists()


@pytest.mark.parametrize(
    ("name", "value", "check", "mend"),
    [
        ("PATH", "/nowhere", "git", "install git"),
        ("TASKRUNNER_SUPERVISION__LEASE", "300", "settings", "correct the TASKRUNNER_"),
        ("TASKRUNNER_DATABASE_URL", "postgresql+psycopg://127.0.0.1:1/none", "postgresql", "TASKRUNNER_DATABASE_URL"),
        ("TEMPORAL_ADDRESS", "127.0.0.1:1", "temporal", "correct TEMPORAL_ADDRESS"),
        ("TASKRUNNER_URL", "http://127.0.0.1:1", "stack", "`taskrunner up`"),
    ],
)
@pytest.mark.usefixtures("data_dir")
def test_doctor_says_what_is_broken_and_how_to_mend_it(
    name: str, value: str, check: str, mend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One broken thing is one broken finding with its remedy, and exit code 1."""
    monkeypatch.setenv(name, value)
    result = run("doctor", "--json")
    broken = [finding for finding in json.loads(result.output) if finding["state"] == "broken"]
    assert result.exit_code == 1
    assert check in [finding["check"] for finding in broken]
    assert mend in next(finding["mend"] for finding in broken if finding["check"] == check)


def test_doctor_sees_a_key_that_others_can_read(data_dir: Path) -> None:
    """The remedy is the command to type."""
    data_dir.mkdir()
    (data_dir / "admin.key").write_text("secret")
    (data_dir / "admin.key").chmod(0o644)
    result = run("doctor")
    assert result.exit_code == 1
    assert f"chmod 600 {data_dir}/admin.key" in result.output


def test_replay_of_an_empty_folder_fails(tmp_path: Path) -> None:
    """A gate that checks nothing is closed."""
    result = run("replay", str(tmp_path))
    assert result.exit_code == 1
    assert "no histories" in result.output


@pytest.mark.usefixtures("data_dir")
@pytest.mark.parametrize("command", [("up",), ("db", "upgrade")])
def test_an_own_database_that_is_away_is_a_sentence(command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """`up` and `db upgrade` say so, without a traceback and without a password."""
    monkeypatch.setenv("TASKRUNNER_DATABASE_URL", "postgresql+psycopg://me:hush@127.0.0.1:1/none")
    result = run(*command)
    said = result.output + str(result.exception)
    assert result.exit_code == 1
    assert "the database could not be brought up to date" in said
    assert "hush" not in said


def test_a_table_for_programs_has_tabs_and_one_line_for_each_row(capsys: pytest.CaptureFixture[str]) -> None:
    """Cells as they are, without colours; neither tab nor line break nor control character within one."""
    table(("id", "name"), [("1", coloured("failed")), ("2", escape("a\tb\n[c]\x1b[2J"))])
    assert capsys.readouterr().out == "id\tname\n1\tfailed\n2\ta b [c]\\x1b[2J\n"


@pytest.mark.parametrize(("width", "columns"), [(40, "id name"), (60, "id status name"), (200, "id status step name")])
def test_an_id_is_never_cut(
    width: int, columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A person copies it from any screen: columns that have no room are left out, and a row stays one line."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(width))
    identity = "01a1fcfe-40ee-7495-9b9c-0c571f8c948f"
    table(("id", "status", "step", "name"), [(identity, coloured("failed"), "running", "a long name " * 20)] * 3)
    head, *rows = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert head.split() == columns.split()
    assert [identity in row for row in rows] == [True] * 3


def test_colour_is_for_terminals_only(data_dir: Path) -> None:
    """On a pipe there is no escape sequence; on a terminal there is."""
    argv = [sys.executable, "-P", "-m", "cli.main", "doctor", "--data-dir", str(data_dir)]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "TERM": "xterm"}
    env.pop("NO_COLOR", None)
    assert b"\x1b[" not in subprocess.run(argv, env=env, capture_output=True, check=True).stdout
    ours, theirs = os.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        child = subprocess.Popen(argv, env=env, stdout=theirs)
        os.close(theirs)
        assert b"\x1b[" in terminal.read(100)
        child.kill()
        child.wait()
