"""The command line as a whole: every command is found by a walk, and held to what is promised of all."""

import ast
import inspect
import os
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from cli.examples import EXAMPLES
from cli.main import app
from domain.events import EventType
from domain.lifecycle import Step, TaskStatus

ROOT = Path(__file__).parents[2]
# What a command may do without being one that reads.
CHANGES = {"up", "demo", "api", "worker", "db upgrade", "keys revoke", "tasks delete"}
CHANGES |= {"runs delete", "webhooks delete", "webhooks redeliver", "nodes join", "nodes tokens revoke"}


def walk(command: object, path: str = "") -> Iterator[tuple[str, TyperCommand]]:
    """Give every command below this one with its words."""
    if isinstance(command, TyperGroup):
        for name, child in command.commands.items():
            yield from walk(child, f"{path} {name}".strip())
    else:
        assert isinstance(command, TyperCommand)
        yield path, command


COMMANDS = dict(walk(get_command(app)))


@pytest.mark.parametrize("path", COMMANDS)
def test_what_reads_prints_json_on_request(path: str) -> None:
    """`--json` is an option of every command but those that only change something, and it is used."""
    command = COMMANDS[path]
    options = {option for parameter in command.params for option in parameter.opts}
    if path in CHANGES:
        assert "--json" not in options
        return
    assert "--json" in options
    assert command.callback
    body = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(command.callback))))
    assert [node for node in ast.walk(body) if isinstance(node, ast.Name) and node.id == "as_json"]


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_and_option_is_explained(path: str) -> None:
    """A sentence for the command, and one for each of its options."""
    command = COMMANDS[path]
    assert command.help
    assert [each.name for each in command.params if not getattr(each, "help", "help")] == []


@pytest.mark.parametrize(("path", "example"), [(path, each) for path, lines in EXAMPLES.items() for each in lines])
def test_every_example_is_one(path: str, example: str) -> None:
    """It names its command, and the command line takes its arguments."""
    words = shlex.split(example)
    for sign in ("|", "||", ">", "<"):
        words = words[: words.index(sign)] if sign in words else words
    arguments = words[1 + len(path.split()) :]
    assert words[: 1 + len(path.split())] == ["taskrunner", *path.split()]
    COMMANDS[path].make_context(path, arguments)


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("taskrunner wa", ["watch"]),
        ("taskrunner tasks ex", ["explain"]),
        ("taskrunner tasks list --status ", list(TaskStatus)),
        ("taskrunner tasks list --step workspace_", [step for step in Step if step.startswith("workspace_")]),
        ("taskrunner tasks breakpoints x --before clean", [Step.CLEANUP]),
        ("taskrunner tasks events x --type task.c", [kind for kind in EventType if kind.startswith("task.c")]),
        ("taskrunner runs list --status c", ["completed", "cancelled"]),
        ("taskrunner runs breakpoints x --before ", []),
        ("taskrunner runs show ", []),
        ("taskrunner tasks show ", []),
    ],
)
def test_the_shell_is_offered_what_can_follow(line: str, offered: list[str], tmp_path: Path) -> None:
    """Commands, options' values; of ids none where no API answers, and no error."""
    program = tmp_path / "taskrunner"
    program.write_text(f"#!{sys.executable} -P\nfrom cli.main import main\nmain()\n")
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("TASKRUNNER_", "_TASKRUNNER"))}
    done = subprocess.run(
        [sys.executable, "-P", program],
        env=clean
        | {
            "PYTHONPATH": str(ROOT),
            "TASKRUNNER_URL": "http://127.0.0.1:1",
            "_TASKRUNNER_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(line.split(" ")) - 1),
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout.split(), done.stderr) == (list(map(str, offered)), "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_installed_where_the_shell_looks(shell: str, tmp_path: Path) -> None:
    """`--install-completion` writes into the home folder of who asks, and names the program."""
    program = tmp_path / "taskrunner"
    program.write_text("from cli.main import main\nmain()\n")
    subprocess.run(
        [sys.executable, "-P", program, "--install-completion", shell],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "HOME": str(tmp_path),
            "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
        },
        check=True,
        capture_output=True,
    )
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path != program]
    assert [path for path in written if "_TASKRUNNER_COMPLETE" in path.read_text()]


def test_a_process_with_temporals_core_is_not_torn_down() -> None:
    """It ends with its code and all of its output, and without what the interpreter does at its end."""
    code = (
        "import atexit, sys, temporalio.client; atexit.register(print, 'torn down');"
        "sys.argv = ['taskrunner', *sys.argv[1:]]; from cli.main import main; main()"
    )
    for words, expected in ((["--help"], 0), (["nonsense"], 2)):
        ended = subprocess.run([sys.executable, "-P", "-c", code, *words], capture_output=True, text=True, check=False)
        assert ended.returncode == expected
        assert "torn down" not in ended.stdout
        assert "taskrunner" in ended.stdout + ended.stderr
