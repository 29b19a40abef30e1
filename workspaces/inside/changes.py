"""`changes.patch`: what the work directory has beyond the commit that was checked out."""

from __future__ import annotations

import shutil
from pathlib import Path

from workspaces.inside.git import TAIL, environment, git
from workspaces.inside.output import Output
from workspaces.inside.session import Session

NAME = "changes.patch"


def patch(session: Session, output: Output) -> Path | None:
    """Write the patch; None when there is no checkout or nothing changed.

    Commits, untracked and binary files are in it, ignored files are not. It is made in a scratch repository that only
    borrows the clone's objects: whatever the command wrote into `.git` (hooks, filters, external diffs) never runs.
    """
    base = session.control / "base"
    if not base.exists():
        return None
    scratch, target = session.control / "scratch.git", session.control / NAME
    shutil.rmtree(scratch, ignore_errors=True)
    env = environment(session)
    code, said = git(["init", "--quiet", "--bare", str(scratch)], cwd=session.control, env=env)
    if not code:
        alternates = scratch / "objects" / "info" / "alternates"
        alternates.parent.mkdir(parents=True, exist_ok=True)
        alternates.write_text(f"{session.work / '.git' / 'objects'}\n", "utf-8")
        # With its times: git compares them with the files', and looks into a file that is as young as the index.
        shutil.copy2(session.control / "base.index", scratch / "index")
        env = {**env, "GIT_DIR": str(scratch), "GIT_WORK_TREE": str(session.work)}
        code, said = git(["add", "--all", "--", "."], cwd=session.work, env=env)
    if not code:
        options = ["--cached", "--binary", "--no-ext-diff", "--no-textconv", "--no-color", f"--output={target}"]
        code, said = git(["diff", *options, base.read_text("ascii"), "--"], cwd=session.work, env=env)
    if code:
        output.note(f"{NAME} could not be made: {said.strip()[-TAIL:]}")
        return None
    return target if target.stat().st_size else None
