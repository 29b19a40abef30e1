"""`changes.patch`: all that a turn changed in a checkout, made without running anything that the turn left there."""

import subprocess
from pathlib import Path

import pytest

from tests.workspaces.conftest import Bench, Origin, git


def applied(origin: Origin, patch: bytes, tmp_path: Path) -> Path:
    """Apply a patch to a fresh clone; give the clone."""
    clone = tmp_path / "applied"
    git(tmp_path, "clone", "--quiet", str(origin.path), str(clone))
    subprocess.run(["git", "apply", "--index"], cwd=clone, input=patch, check=True)
    return clone


@pytest.mark.parametrize("ref", [None, "topic"])
async def test_patch_holds_the_change_of_one_line(bench: Bench, origin: Origin, ref: str | None) -> None:
    """A token that the input gives and the command writes into a file is in the patch."""
    script = 'sed s/,/,/ "$TASKRUNNER_INPUT_FILE" > file.txt'
    await bench.run(script, repo={"url": origin.url, "ref": ref}, input={"token": "t-4711"})
    assert b'+{"token": "t-4711"}' in bench.api.artifacts["changes.patch"]


async def test_patch_holds_what_was_committed_added_removed_binary_and_of_the_same_size(
    bench: Bench, origin: Origin, tmp_path: Path
) -> None:
    """Applied to a fresh clone, the patch gives the same tree; ignored files are not in it."""
    script = """
    git config user.name x; git config user.email x@example.invalid
    printf 'TWO\\n' > file.txt; git commit -qam changed
    printf '\\000\\001binary' > image.bin; mkdir -p deep/er ignored; echo new > 'deep/er/a name.txt'
    echo no > ignored/file; chmod +x deep/er/a*; git rm -q --cached .gitignore
    echo ignored/ > .gitignore
    """
    await bench.run(script, repo={"url": origin.url})
    clone = applied(origin, bench.api.artifacts["changes.patch"], tmp_path)
    assert (clone / "file.txt").read_text() == "TWO\n"
    assert (clone / "image.bin").read_bytes() == b"\0\1binary"
    assert (clone / "deep/er/a name.txt").stat().st_mode & 0o100
    assert not (clone / "ignored").exists()


@pytest.mark.parametrize("repo", [True, False])
async def test_without_changes_there_is_no_patch(bench: Bench, origin: Origin, repo: bool) -> None:  # noqa: FBT001
    """Nor without a repository."""
    await bench.run("true", **({"repo": {"url": origin.url}} if repo else {}))
    assert bench.api.artifacts == {}


async def test_nothing_that_the_command_left_in_git_runs(bench: Bench, origin: Origin) -> None:
    """Hooks, filters, text conversions, external diffs, a file system monitor: configured, and never called."""
    script = """
    trap_=$HOME/trap; printf '#!/bin/sh\\ntouch "$0.sprung"; cat\\n' > $trap_; chmod +x $trap_
    for key in core.fsmonitor core.hooksPath diff.external diff.x.textconv diff.x.command filter.x.clean \
      filter.x.process core.pager core.editor; do git config $key $trap_; done
    echo '* filter=x diff=x' > .gitattributes; mkdir -p .git/hooks
    for hook in pre-commit post-index-change post-checkout; do cp $trap_ .git/hooks/$hook; done
    rm -f $trap_.sprung; echo changed > file.txt
    """
    await bench.run(script, repo={"url": origin.url})
    assert b"+changed" in bench.api.artifacts["changes.patch"]
    assert list((bench.base / "home").glob("*.sprung")) == []
    assert list(bench.base.rglob("*.sprung")) == []


async def test_destroyed_checkout_is_no_reason_to_fail(bench: Bench, origin: Origin) -> None:
    """A command that removes `.git` ends well; the log says that there is no patch."""
    ended = await bench.run("rm -rf .git", repo={"url": origin.url})
    assert (ended.exit_code, ended.error) == (0, None)
    assert b"changes.patch could not be made" in bench.api.log
