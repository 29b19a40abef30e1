"""Git, kept on a leash: few protocols, no prompts, no hooks, no templates, no configuration but ours."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from workspaces.inside import commands
from workspaces.inside.output import Output
from workspaces.inside.session import Session, masked, problem

FILE = "file://"
TAIL = 2000  # characters of a command's output that an error quotes

ASKPASS = """#!/bin/sh
case "$1" in
Username*) printf '%s\\n' "${TASKRUNNER_GIT_USER}" ;;
*) printf '%s\\n' "${TASKRUNNER_GIT_PASSWORD}" ;;
esac
"""
TOKEN_USER = "x-access-token"  # noqa: S105 - the user name that forges take beside a token

# Git's own words (LC_ALL=C), most telling first, with what they mean: code, category.
SYMPTOMS = (
    ("transport '", "protocol_not_allowed", "input"),
    ("could not read Username", "repo_access_denied", "input"),
    ("could not read Password", "repo_access_denied", "input"),
    ("Authentication failed", "repo_access_denied", "input"),
    ("The requested URL returned error: 403", "repo_access_denied", "input"),
    ("Permission denied", "repo_access_denied", "input"),
    ("does not appear to be a git repository", "repo_not_found", "input"),
    ("epository not found", "repo_not_found", "input"),
    ("does not exist", "repo_not_found", "input"),
    ("not found", "repo_not_found", "input"),
)


class GitFailed(Exception):  # noqa: N818 - the fact
    """A clone or checkout that failed, with the error to report."""

    def __init__(self, code: str, category: str, message: str) -> None:
        super().__init__(message)
        self.error = problem(code, category, message)


def environment(session: Session) -> dict[str, str]:
    """Return git's environment, without any credential."""
    config = session.control / "gitconfig"
    lines = ["[core]", "hooksPath = /dev/null", "fsmonitor = false", "[advice]", "detachedHead = false"]
    lines += ["[gc]", "auto = 0", "[maintenance]", "auto = false"]
    url = (session.repo or {}).get("url", "")
    if url.startswith(FILE) and '"' not in url:
        # A node that allows file URLs trusts its files, whoever owns them.
        path = url[len(FILE) :]
        lines += ["[safe]", f'directory = "{path}"', f'directory = "{path}/.git"']
    config.write_text("\n".join([*lines, ""]), "utf-8")
    return {
        "PATH": session.environment["PATH"],
        "HOME": str(session.home),
        "LC_ALL": "C",
        "TASKRUNNER_WORKSPACE_ID": session.workspace_id,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_SSH_COMMAND": "ssh -o BatchMode=yes",
        "GIT_ALLOW_PROTOCOL": session.protocols,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": str(config),
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TEMPLATE_DIR": "",
    }


def _with_credential(session: Session, secrets: dict[str, str], name: str) -> dict[str, str]:
    """Return git's environment with a credential, given by GIT_ASKPASS: never in argv, a URL or a file."""
    askpass = session.control / "askpass"
    askpass.write_text(ASKPASS, "ascii")
    askpass.chmod(0o700)
    user, colon, password = secrets[name].partition(":")
    return {
        **environment(session),
        "GIT_ASKPASS": str(askpass),
        "TASKRUNNER_GIT_USER": user if colon else TOKEN_USER,
        "TASKRUNNER_GIT_PASSWORD": password if colon else user,
    }


def git(
    arguments: list[str],
    *,
    cwd: Path,
    env: dict[str, str],
    output: Output | None = None,
    stdin: Path | None = None,
) -> tuple[int, str]:
    """Run git; return its exit code and what it said (both streams), which goes to the log too if one is given."""
    try:
        child = commands.start(["git", *arguments], cwd=cwd, environment=env, resources={}, stdin=stdin)
    except commands.Unstartable as problem_:
        return problem_.exit_code, str(problem_)
    if child.stdout is None:  # pragma: no cover - `start` always gives a pipe
        raise AssertionError
    with child.stdout:
        said = child.stdout.read()
    if output and said:
        output.write(said)
    return commands.wait(child), said.decode("utf-8", "surrogateescape")


def clone(session: Session, repo: dict[str, Any], secrets: dict[str, str], output: Output) -> str:
    """Clone the repository into the work directory at its ref; return the commit. Raises `GitFailed`."""
    url, ref = repo["url"], "" if repo["ref"] in (None, "HEAD") else repo["ref"]
    env = _with_credential(session, secrets, repo["credential"]) if repo["credential"] else environment(session)
    output.note(f"cloning {url}" + (f" at {ref}" if ref else ""))
    code, said = git(["clone", "--quiet", "--no-checkout", "--", url, "."], cwd=session.work, env=env, output=output)
    if code:
        kind, category = next(
            ((kind, category) for words, kind, category in SYMPTOMS if words in said), ("clone_failed", "workspace")
        )
        raise GitFailed(kind, category, f"git clone {url}: {masked(said.strip()[-TAIL:], secrets)}")
    commit = _resolve(session, ref, env)
    branch = ["-B", ref, f"origin/{ref}"] if ref and _commit(session, f"refs/remotes/origin/{ref}", env) else []
    target = branch or (["--detach", commit] if ref else [])
    code, said = git(["checkout", "--quiet", *target, "--"], cwd=session.work, env=env, output=output)
    if code:
        raise GitFailed("checkout_failed", "workspace", f"git checkout {ref}: {masked(said.strip()[-TAIL:], secrets)}")
    # What `changes` compares with: written by us, before any command could touch it.
    (session.control / "base").write_text(commit, "ascii")
    shutil.copy2(session.work / ".git" / "index", session.control / "base.index")
    output.note(f"checked out {commit}")
    return commit


def _resolve(session: Session, ref: str, env: dict[str, str]) -> str:
    """Return the commit that a branch, tag, commit or other ref of the remote names."""
    names = (f"refs/remotes/origin/{ref}", f"refs/tags/{ref}", ref) if ref else ("HEAD",)
    for name in names:
        if commit := _commit(session, name, env):
            return commit
    if ref:
        # Not among branches and tags, such as a pull request's: ask for it by name.
        code, _ = git(["fetch", "--quiet", "--no-tags", "--", "origin", ref], cwd=session.work, env=env)
        if not code and (commit := _commit(session, "FETCH_HEAD", env)):
            return commit
    raise GitFailed("ref_not_found", "input", f"The repository has no {ref or 'commit yet'}.")


def _commit(session: Session, name: str, env: dict[str, str]) -> str:
    code, said = git(
        ["rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"], cwd=session.work, env=env
    )
    return said.strip() if code == 0 else ""
