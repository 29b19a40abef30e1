"""Every ```console block of every page is typed into a real shell, against a real stack; it prints what the page says.

Lines after `$ ` are commands, with `> ` before what goes on; the lines below are their output. In these, `…` stands for
any characters, and a line of its own for any lines. A command whose output is not shown may print what it likes; each
must end with 0 (show another code with `; echo $?`). All blocks of a page share one shell, all pages share one stack,
and `.taskrunner` is its data directory.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.cli.stacks import StackProcess

ROOT = Path(__file__).parents[2]
PAGES = [
    page for page in (*ROOT.glob("*.md"), *sorted((ROOT / "docs").glob("*.md"))) if "\n```console\n" in page.read_text()
]
PATIENCE = 120


@dataclass
class Typed:
    """A command and the lines that it is said to print."""

    command: str
    says: list[str] = field(default_factory=list)

    def fits(self, printed: str) -> bool:
        """Whether this was printed; where the page says nothing, anything was."""
        lines = [re.escape(line).replace("…", ".*") + "\n" if line != "…" else "(?:.*\n)*?" for line in self.says]
        return not lines or re.fullmatch("".join(lines), printed) is not None


def typed(page: str) -> list[Typed]:
    """Return the commands of a page's blocks, in order."""
    found: list[Typed] = []
    for block in re.findall(r"^```console\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        assert block.startswith("$ "), block
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(Typed(line[2:]))
            elif line.startswith("> ") and not found[-1].says:
                found[-1].command += "\n" + line[2:]
            else:
                found[-1].says.append(line.rstrip())
    return found


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackProcess]:
    """Give one running stack to all pages, and `taskrunner` on the path of their shells."""
    home = tmp_path_factory.mktemp("home")
    running = StackProcess(home / ".taskrunner").up()
    program = home / "bin" / "taskrunner"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m cli.main "$@"\n')
    program.chmod(0o755)
    running.env["PATH"] = f"{program.parent}:{running.env['PATH']}"
    yield running
    assert running.stop() == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_prints_what_it_says(page: Path, stack: StackProcess, tmp_path: Path) -> None:
    """Every command ends with 0, and its output is the page's; where the page has a default port, the stack's is."""
    address = json.loads((stack.data_dir / "address.json").read_text())
    text = page.read_text(encoding="utf-8")
    for default, real in (
        ("http://127.0.0.1:8080", address["api"]),
        ("http://127.0.0.1:8233", address["temporal_ui"]),
        ("127.0.0.1:7233", address["temporal"]),
    ):
        text = text.replace(default, real)
    commands = typed(text)
    script = [
        f"{{ {each.command}\n}} > {tmp_path}/{number} 2>&1 || exit {number}"
        for number, each in enumerate(commands, start=1)
    ]
    shell = subprocess.run(
        ["bash", "-c", "\n".join(script)],
        env=stack.env,
        cwd=stack.data_dir.parent,
        stdin=subprocess.DEVNULL,
        timeout=PATIENCE,
        check=False,
    )
    for number, each in enumerate(commands, start=1):
        output = tmp_path / str(number)
        printed = "\n".join(line.rstrip() for line in output.read_text().splitlines()) + "\n"
        assert shell.returncode != number, f"$ {each.command}\n{printed}"
        assert each.fits(printed), f"$ {each.command}\n{printed}\n--- instead of\n" + "\n".join(each.says)


@pytest.mark.parametrize(
    ("says", "printed", "fits"),
    [
        ([], "anything\n", True),
        (["a", "b"], "a\nb\n", True),
        (["a", "b"], "a\n", False),
        (["a"], "a\nb\n", False),
        (["a …"], "a 12 ms\n", True),
        (["a …"], "b 12 ms\n", False),
        (["…", "end"], "a\nb\nend\n", True),
        (["…", "end"], "end\n", True),
        (["…", "end"], "a\nends\n", False),
        (["1.5 [s]"], "1x5 [s]\n", False),
    ],
)
def test_what_was_printed_is_compared_with_the_page(says: list[str], printed: str, *, fits: bool) -> None:
    """Word by word but for `…`; nothing more may come, and nothing less."""
    assert Typed("true", says).fits(printed) is fits


def test_commands_and_their_output_are_told_apart() -> None:
    """A command may go on over lines; text outside of the blocks is nothing that is typed."""
    page = "$ no\n```console\n$ echo a \\\n> b\na b\n> c\n$ true\n```\n```sh\n$ no\n```\n"
    assert typed(page) == [Typed("echo a \\\nb", ["a b", "> c"]), Typed("true")]
