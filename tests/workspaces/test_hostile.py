"""A command that attacks the program beside it: by links, names, depths, and what it leaves for git to find."""

import asyncio
import contextlib
import os
from pathlib import Path

import pytest

from domain.errors import Failure
from tests.workspaces.conftest import Bench, Origin, git
from tests.workspaces.recording import until
from tests.workspaces.test_attachments import pieces
from workspaces.inside import trees

OUTSIDE = b"not yours"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Give a folder beside the workspaces with a file that no task may get."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "file.txt").write_bytes(OUTSIDE)
    return folder


@pytest.mark.parametrize("replaced", ["$TASKRUNNER_ARTIFACTS_DIR", "$PWD"], ids=["artifacts", "work"])
async def test_a_root_that_became_a_link_leads_nowhere(bench: Bench, outside: Path, replaced: str) -> None:
    """Nothing of where it points is kept, nothing there is walked through, and the log says so."""
    script = f'root="{replaced}"; cd /; rm -rf "$root"; ln -s {outside} "$root"'
    ended = await bench.run(script, artifacts=["*.txt", "**/*"])
    assert ended.error is None
    assert bench.api.artifacts == {}
    assert b"links and special files are not followed" in bench.api.log


async def test_a_folder_on_the_way_that_is_a_link_leads_nowhere(bench: Bench, outside: Path) -> None:
    """Relative, absolute, upward, to itself, to a file's descriptor: none is followed."""
    script = f"""
    cd $TASKRUNNER_ARTIFACTS_DIR; mkdir deep; ln -s {outside} deep/link; ln -s ../../../outside up; ln -s . self
    ln -s /proc/self/fd/0 input; ln -s /dev/stdin device; echo ok > ok
    """
    await bench.run(script, artifacts=["**/file.txt"])
    assert bench.api.artifacts == {"ok": b"ok\n"}


@pytest.mark.parametrize("swapped", ["file", "folder", "root"])
def test_a_swap_between_the_look_and_the_opening_is_seen(tmp_path: Path, outside: Path, swapped: str) -> None:
    """What was found as a file is opened part by part, each of them by no link."""
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    (root / "folder" / "file.txt").write_text("ours")
    with trees.opened(root, "folder/file.txt") as file:
        assert file.read() == b"ours"
    if swapped == "file":
        (root / "folder" / "file.txt").unlink()
        (root / "folder" / "file.txt").symlink_to(outside / "file.txt")
    elif swapped == "folder":
        (root / "folder").rename(root / "gone")
        (root / "folder").symlink_to(outside)
    else:
        (outside / "folder").mkdir()
        (outside / "folder" / "file.txt").write_bytes(OUTSIDE)
        root.rename(tmp_path / "gone")
        root.symlink_to(outside)
    with pytest.raises(OSError, match=r"symbolic links|Not a directory"):
        trees.opened(root, "folder/file.txt")


@pytest.mark.parametrize("name", ["../outside/file.txt", "folder/../../outside/file.txt", "/etc/passwd", "", ".", ".."])
def test_no_name_leads_upwards(tmp_path: Path, outside: Path, name: str) -> None:
    """Whatever a pattern has matched."""
    (tmp_path / "root" / "folder").mkdir(parents=True)
    assert outside.exists()
    with pytest.raises(OSError, match="Invalid argument"):
        trees.opened(tmp_path / "root", name)


async def test_what_is_uploaded_is_what_was_opened(bench: Bench, outside: Path) -> None:
    """A file that is swapped for a link after its first try is sent again from the descriptor."""
    answers = iter([503])
    target = "$TASKRUNNER_ARTIFACTS_DIR/file.txt"

    def rule(request: object) -> int | None:
        path = bench.base / "artifacts" / "file.txt"
        if getattr(request, "method", "") == "PUT" and not path.is_symlink():
            path.unlink()
            path.symlink_to(outside / "file.txt")
            return next(answers)
        return None

    bench.api.rule = rule
    await bench.run(f"echo ours > {target}")
    assert bench.api.artifacts == {"file.txt": b"ours\n"}


async def test_special_files_are_not_opened_for_long(bench: Bench) -> None:
    """A pipe without a writer, a socket, a directory with a file's name: the turn ends well and at once."""
    script = """
    cd $TASKRUNNER_ARTIFACTS_DIR; mkfifo pipe; mkdir folder
    python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("socket")'
    """
    ended = await bench.run(script)
    assert (ended.exit_code, ended.error, bench.api.artifacts) == (0, None, {})


async def test_a_hard_link_is_a_file_of_its_own(bench: Bench) -> None:
    """Build tools make them; the kernel lets a user link only what that user can read and write anyway."""
    await bench.run("echo x > a; ln a $TASKRUNNER_ARTIFACTS_DIR/a")
    assert bench.api.artifacts == {"a": b"x\n"}


async def test_names_are_no_way_to_end_or_to_deceive_the_program(bench: Bench) -> None:
    """Bytes that are no text, lines, escapes, backslashes, dots: the turn ends well, no line is forged."""
    script = r"""
    cd $TASKRUNNER_ARTIFACTS_DIR; echo ok > ok; echo x > "$(printf '\377\376')"
    echo x > "$(printf 'a\n[taskrunner] forged')"; echo x > "$(printf 'red\033[31m')"; echo x > 'a\b'; echo x > '...'
    mkdir -p "$(printf '\377')"; echo x > "$(printf '\377')/x"; echo x > "$(printf '%0250d' 1)"; echo x > 'ü .'
    """
    ended = await bench.run(script, artifacts=["**/*"])
    assert (ended.exit_code, ended.error) == (0, None)
    kept = {"ok", "...", "ü .", "0" * 249 + "1"}
    assert kept <= set(bench.api.artifacts)
    assert b"\n[taskrunner] forged" not in bench.api.log
    assert b"\x1b[31m" not in bench.api.log
    assert bench.api.log.count(b"is not kept") >= 2


DEEP = """
import os
for _ in range(1500):
    os.mkdir("d"); os.chdir("d")
open("file", "w").close()
"""


async def test_depth_is_no_way_to_end_the_program(bench: Bench) -> None:
    """Fifteen hundred folders within each other: the turn ends well, and the workspace is removed."""
    (bench.root.parent / "deep.py").write_text(DEEP)
    script = f"""
    cd $TASKRUNNER_ARTIFACTS_DIR && python3 {bench.root.parent}/deep.py
    cd $HOME && python3 {bench.root.parent}/deep.py; echo ok > $TASKRUNNER_ARTIFACTS_DIR/ok
    """
    ended = await bench.run(script, artifacts=["**/*"])
    assert (ended.exit_code, ended.error) == (0, None)
    assert bench.api.artifacts["ok"] == b"ok\n"
    await bench.provider.destroy(bench.order.workspace_id)
    assert not bench.base.exists()


async def test_read_only_folders_and_links_do_not_keep_a_workspace(bench: Bench, outside: Path) -> None:
    """It is removed, and what its links point to is not."""
    script = f"""
    mkdir -p a/b; echo x > a/b/c; ln -s {outside} a/link; ln -s {outside}/file.txt a/file; chmod 500 a/b a; chmod 0 a/b
    """
    await bench.run(script)
    await bench.provider.destroy(bench.order.workspace_id)
    assert not bench.base.exists()
    assert (outside / "file.txt").read_bytes() == OUTSIDE


@pytest.mark.parametrize("make", ["mkdir -p {}/x", "ln -s / {}", "mkfifo {}"], ids=["folder", "link", "pipe"])
@pytest.mark.parametrize("name", ["token", "stopped", "input.json"])
async def test_what_lies_in_the_place_of_our_files_does_not_keep_a_workspace(
    bench: Bench, name: str, make: str
) -> None:
    """A folder, a link or a pipe where the provider has its own file: the workspace is kept, and then removed."""
    place = f"../control/{name}"
    await bench.prepare(command=["sh", "-c", f"rm -f {place}; {make.format(place)}; touch made; sleep 60"])
    await bench.start()
    await until((bench.files / "work" / "made").exists)
    kept = await bench.provider.destroy(bench.order.workspace_id, keep=True)
    assert kept.details["kept"]
    assert not os.path.lexists(bench.files / "control" / "token")
    await bench.provider.destroy(bench.order.workspace_id)
    assert not bench.base.exists()


@pytest.mark.parametrize("name", ["stopped", "program.log"])
async def test_a_pipe_in_the_place_of_our_files_is_not_waited_for(bench: Bench, name: str) -> None:
    """Made by a setup command: the command starts, or the start fails; the node waits for nobody."""
    make = f"rm -f ../control/{name} && mkfifo ../control/{name}"
    await bench.prepare(command=["true"], setup=[["sh", "-c", make]])
    async with asyncio.timeout(60):
        with contextlib.suppress(Failure, OSError):
            await bench.start()


async def test_a_pipe_among_the_notes_of_attachments_is_not_waited_for(bench: Bench) -> None:
    """Whatever lies there, the file is stored."""
    make = "mkdir -p ../control/attachments && mkfifo ../control/attachments/x"
    await bench.prepare(command=["true"], setup=[["sh", "-c", make]])
    await bench.provider.transfer_attachment(bench.order.workspace_id, "att-1", "file.txt", pieces(b"ours"))
    assert (bench.files / "attachments" / "file.txt").read_bytes() == b"ours"


async def test_an_attachment_is_not_written_through_a_link(bench: Bench, outside: Path) -> None:
    """A setup command that made a link of the folder: the transfer fails, and nothing is written outside."""
    link = f'rmdir "$TASKRUNNER_ATTACHMENTS_DIR" && ln -s {outside} "$TASKRUNNER_ATTACHMENTS_DIR"'
    await bench.prepare(command=["true"], setup=[["sh", "-c", link]])
    with pytest.raises((Failure, OSError)):
        await bench.provider.transfer_attachment(bench.order.workspace_id, "att-1", "file.txt", pieces(b"theirs"))
    assert {path.name: path.read_bytes() for path in outside.iterdir()} == {"file.txt": OUTSIDE}


TRAP = """
trap_=$HOME/trap; printf '#!/bin/sh\\ntouch "$0.sprung"; cat\\n' > $trap_; chmod +x $trap_
arm() { for key in core.fsmonitor core.hooksPath core.sshCommand core.pager diff.external diff.x.textconv \
  filter.x.clean filter.x.process filter.x.smudge credential.helper; do git -C $1 config $key $trap_; done; }
"""


async def test_no_repository_within_the_checkout_runs_anything(bench: Bench, origin: Origin, tmp_path: Path) -> None:
    """A submodule that the command filled, a repository that it put there, both configured to run programs."""
    library = tmp_path / "library"
    library.mkdir()
    git(library, "init", "--quiet", "--initial-branch=main")
    (library / "code.txt").write_text("one\n")
    git(library, "add", ".")
    git(library, "commit", "--quiet", "-m", "one")
    git(origin.path, "-c", "protocol.file.allow=always", "submodule", "add", "--quiet", str(library), "sub")
    origin.git("commit", "--quiet", "-m", "with a submodule")
    script = f"""{TRAP}
    for path in sub nested; do
      rm -rf $path; git clone --quiet {library} $path; arm $path; echo '* filter=x diff=x' > $path/.gitattributes
      echo changed > $path/code.txt
    done
    git config submodule.sub.ignore none; git config status.submoduleSummary true; git config diff.submodule log
    arm .; rm -f $trap_.sprung; echo changed > file.txt
    """
    await bench.run(script, repo={"url": origin.url})
    assert list(bench.base.rglob("*.sprung")) == []
    assert b"+changed" in bench.api.artifacts["changes.patch"]


async def test_a_checkout_is_not_replaced_by_another(bench: Bench, origin: Origin, outside: Path) -> None:
    """`.git` that became a link, a file or a folder of somebody else: no patch shows what is outside."""
    git(outside, "init", "--quiet")
    script = f"rm -rf .git; ln -s {outside}/.git .git; ln -s {outside}/file.txt copied; ln -s {outside} folder"
    ended = await bench.run(script, repo={"url": origin.url})
    assert ended.error is None
    assert OUTSIDE not in bench.api.artifacts.get("changes.patch", b"")


async def test_hostile_names_of_a_repository_stay_names(bench: Bench, origin: Origin) -> None:
    """Names that look like options, lines, magic pathspecs: the checkout is made, the patch is whole."""
    for name in ("--output=x", "-rf", ":(top)x", "a\nb", "$(touch sprung)", "tab\tname", 'quo"te'):
        (origin.path / name).write_text("one\n")
    git(origin.path, "add", "--all", ".")
    origin.git("commit", "--quiet", "-m", "names")
    await bench.run('for f in ./*; do echo more >> "$f"; done', repo={"url": origin.url})
    assert bench.api.artifacts["changes.patch"].count(b"+more") >= 8
    assert not list(bench.base.rglob("sprung"))


async def test_private_files_are_their_owners(bench: Bench) -> None:
    """The workspace cannot be entered by others; token, input and session files cannot be read by them."""
    await bench.prepare(command=["true"], input={"a": 1})
    folders = [bench.base, *(path for path in bench.base.iterdir() if path.is_dir())]
    assert {path.stat().st_mode & 0o777 for path in folders} == {0o700}
    control = bench.base / "control"
    private = [control / name for name in ("token", "input.json", "prepare-1.json", "prepare-1.lock")]
    assert {path.stat().st_mode & 0o077 for path in private} == {0}


async def test_two_workspaces_have_nothing_in_common(bench: Bench) -> None:
    """Each its own HOME, token, input and artifacts; what one leaves the other does not see by any given path."""
    seen = []
    for word in ("first", "second"):
        await bench.run(f"env > $TASKRUNNER_ARTIFACTS_DIR/{word}", input={"w": word})
        lines = bench.api.artifacts[word].splitlines()
        seen.append({line.partition(b"=")[0]: line for line in lines})
    own = {b"HOME", b"PWD", b"TASKRUNNER_TOKEN_FILE", b"TASKRUNNER_INPUT_FILE", b"TASKRUNNER_ARTIFACTS_DIR"}
    assert own <= seen[0].keys() & seen[1].keys()
    assert not [name for name in own if seen[0][name] == seen[1][name]]
