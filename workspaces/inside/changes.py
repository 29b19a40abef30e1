"""`changes.patch`: what the work directory has beyond the commit that was checked out."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import BinaryIO

from workspaces.inside import trees
from workspaces.inside.git import TAIL, environment, git
from workspaces.inside.output import Output
from workspaces.inside.session import Session

NAME = "changes.patch"
COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
SUBMODULE = "160000"  # the mode of a gitlink


def patch(session: Session, output: Output) -> BinaryIO | None:
    """Give the patch, opened; None when there is no checkout or nothing changed.

    Commits, untracked and binary files are in it, ignored files and repositories within the checkout are not. It is
    made in a scratch repository that only borrows the clone's objects: whatever the command wrote into `.git` (hooks,
    filters, external diffs) never runs, nor does what it put where nobody has made a file yet.
    """
    base = session.control / "base"
    if not base.exists():
        return None
    place = Path(tempfile.mkdtemp(prefix="scratch-", dir=session.control))
    try:
        code, said = _make(session, place, base.read_text("ascii", "replace"))
        if code:
            output.note(f"{NAME} could not be made: {said.strip()[-TAIL:]}")
            return None
        made = trees.opened(place, NAME)
        if trees.size(made):
            return made
        made.close()
        return None
    finally:
        trees.remove(place)


def _make(session: Session, place: Path, commit: str) -> tuple[int, str]:
    """Write the patch; return git's exit code and what it said."""
    if not COMMIT.fullmatch(commit):
        return 1, "the commit to compare with was overwritten"
    scratch, plain = place / "git", environment(session)
    code, said = git(["init", "--quiet", "--bare", str(scratch)], cwd=place, env=plain)
    if code:
        return code, said
    alternates = scratch / "objects" / "info" / "alternates"
    alternates.parent.mkdir(parents=True, exist_ok=True)
    alternates.write_text(f"{session.work / '.git' / 'objects'}\n", "utf-8")
    # With its times: git compares them with the files', and looks into a file that is as young as the index.
    shutil.copy2(session.control / "base.index", scratch / "index")
    env = {**plain, "GIT_DIR": str(scratch), "GIT_WORK_TREE": str(session.work)}
    code, said = _forget_submodules(session, place, env)
    if not code:
        code, said = git(["add", "--all", "--", "."], cwd=session.work, env=env)
    if not code:
        options = ["--cached", "--binary", "--no-ext-diff", "--no-textconv", "--no-color", "--ignore-submodules=all"]
        code, said = git(["diff", *options, f"--output={place / NAME}", commit, "--"], cwd=session.work, env=env)
    return code, said


def _forget_submodules(session: Session, place: Path, env: dict[str, str]) -> tuple[int, str]:
    """Take submodules out of the index: `add` would ask each for its state, under that repository's own configuration.

    There the command may have named programs, as filters and monitors.
    """
    code, listed = git(["ls-files", "--stage", "-z"], cwd=session.work, env=env)
    entries = [entry.partition("\t") for entry in listed.split("\0")]
    paths = [path for facts, _, path in entries if facts.startswith(SUBMODULE)]
    if code or not paths:
        return code, listed if code else ""
    names = place / "submodules"
    names.write_bytes("".join(f"{path}\0" for path in paths).encode("utf-8", "surrogateescape"))
    return git(["update-index", "--force-remove", "-z", "--stdin"], cwd=session.work, env=env, stdin=names)
