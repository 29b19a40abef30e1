"""Preparation: clone, ref, setup; `ready` when all is done, `failed` with a reason that tells."""

import stat
from pathlib import Path
from typing import Any

import pytest

from tests.workspaces.conftest import CANARY, Bench, Origin
from tests.workspaces.recording import until

MAIN, TOPIC, ONE = "two\n", "topic\n", "one\n"


@pytest.mark.parametrize(
    ("ref", "content"),
    [(None, MAIN), ("HEAD", MAIN), ("main", MAIN), ("topic", TOPIC), ("v1", ONE), ("refs/pull/7/head", TOPIC)],
)
async def test_repository_is_cloned_at_its_ref(bench: Bench, origin: Origin, ref: str | None, content: str) -> None:
    """Branches, tags, other refs and the remote's HEAD; `ready` names the commit."""
    ready = await bench.prepare(command=["true"], repo={"url": origin.url, "ref": ref})
    assert (bench.base / "work/file.txt").read_text() == content
    assert ready.json["details"]["commit"] == origin.git("rev-parse", ref or "HEAD")
    assert b"cloning file://" in bench.api.log


async def test_commit_is_a_ref_too(bench: Bench, origin: Origin) -> None:
    """A commit's id, also one that no branch ends at."""
    commit = origin.git("rev-parse", "main~1")
    await bench.prepare(command=["true"], repo={"url": origin.url, "ref": commit})
    assert (bench.base / "work/file.txt").read_text() == ONE


async def test_branch_is_checked_out_by_name(bench: Bench, origin: Origin) -> None:
    """A command in the clone sees the branch, not a detached HEAD."""
    await bench.prepare(command=["true"], repo={"url": origin.url, "ref": "topic"})
    assert (bench.base / "work/.git/HEAD").read_text() == "ref: refs/heads/topic\n"


@pytest.mark.parametrize(
    ("repo", "code"),
    [
        ({"url": "file:///no/such/repository"}, "repo_not_found"),
        ({"url": "{origin}", "ref": "no-such-branch"}, "ref_not_found"),
        ({"url": "https://127.0.0.1:1/x.git"}, "clone_failed"),
        ({"url": "{empty}"}, "ref_not_found"),
    ],
)
async def test_repository_that_cannot_be_had_says_why(
    bench: Bench, origin: Origin, repo: dict[str, str], code: str
) -> None:
    """`failed` with a code and a sentence that names the repository or the ref."""
    empty = origin.path.parent / "empty"
    empty.mkdir()
    origin.git("init", "--quiet", "--bare", str(empty))
    values = {key: value.format(origin=origin.url, empty=f"file://{empty}") for key, value in repo.items()}
    failed = await bench.prepare(command=["true"], repo=values)
    assert failed.kind == "failed"
    assert failed.json["error"]["code"] == code
    assert values.get("ref", values["url"]) in failed.json["error"]["message"] or "no commit yet" in str(failed.json)


async def test_hooks_and_templates_of_the_node_do_not_run(
    bench: Bench, origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a user configuration with a hook on checkout and a template, neither reaches the clone."""
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    hook = hooks / "post-checkout"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/hooked\n")
    hook.chmod(0o755)
    (tmp_path / ".gitconfig").write_text(f"[core]\n\thooksPath = {hooks}\n[init]\n\ttemplateDir = {hooks}\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    await bench.prepare(command=["true"], repo={"url": origin.url})
    assert not (tmp_path / "hooked").exists()
    assert not (bench.base / "work/.git/post-checkout").exists()


FAKE_GIT = """#!/bin/sh
{ echo "argv: $*"; echo "user: $($GIT_ASKPASS 'Username for ...')"; echo "prompt: $GIT_TERMINAL_PROMPT"
  [ "$($GIT_ASKPASS 'Password for ...')" = "$EXPECTED" ] && echo "password: right"
  tr '\\0' ' ' < /proc/$$/cmdline; } >> "$RECORD"
echo "fatal: Authentication failed for 'https://x.invalid/y.git' ($($GIT_ASKPASS 'Password'))" >&2
exit 128
"""


async def test_credential_is_given_by_askpass_only(bench: Bench, tmp_path: Path) -> None:
    """Git gets user and token when it asks; argv, the error and our files hold neither."""
    record = tmp_path / "record"
    fake = tmp_path / "bin/git"
    fake.parent.mkdir()
    script = FAKE_GIT.replace("$EXPECTED", CANARY).replace("$RECORD", str(record))
    fake.write_text(script)
    fake.chmod(0o755)
    bench.options["environment"] = {"PATH": f"{fake.parent}:/usr/bin:/bin", "LANG": "C.UTF-8"}
    failed = await bench.prepare(command=["true"], repo={"url": "https://x.invalid/y.git", "credential": "CANARY"})
    assert failed.json["error"]["code"] == "repo_access_denied"
    assert CANARY not in failed.body.decode()
    said = record.read_text()
    assert "user: x-access-token\nprompt: 0\npassword: right" in said
    assert CANARY not in said


async def test_setup_runs_in_order_in_the_clone(bench: Bench, origin: Origin) -> None:
    """Each command sees what the one before it made, the task's env and secrets."""
    setup = [["sh", "-c", "cat file.txt > ../home/order"], ["sh", "-c", "echo $MINE $CANARY >> ../home/order"]]
    await bench.prepare(
        command=["true"], repo={"url": origin.url}, setup=setup, env={"MINE": "yes"}, secrets=["CANARY"]
    )
    assert (bench.base / "home/order").read_text() == f"two\nyes {CANARY}\n"


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["sh", "-c", "echo first; echo the reason is $CANARY; exit 4"], ["exit code 4", "the reason is ***"]),
        (["no-such-program"], ["no-such-program", "not found"]),
    ],
)
async def test_setup_that_fails_tells_command_exit_code_and_last_output(
    bench: Bench, argv: list[str], parts: list[str]
) -> None:
    """`failed` with `setup_failed`; secrets are masked; what would come next does not run."""
    after = ["touch", "../home/after"]
    failed = await bench.prepare(command=["true"], setup=[argv, after], secrets=["CANARY"])
    error: dict[str, Any] = failed.json["error"]
    assert (failed.kind, error["code"]) == ("failed", "setup_failed")
    assert all(part in error["message"] for part in [argv[0], *parts])
    assert CANARY not in error["message"]
    assert not (bench.base / "home/after").exists()


async def test_workspace_without_repository_is_an_empty_private_directory(bench: Bench) -> None:
    """Nobody but its owner can look into it."""
    await bench.prepare()
    assert list((bench.base / "work").iterdir()) == []
    assert stat.S_IMODE(bench.base.stat().st_mode) == 0o700


async def test_destroy_ends_a_preparation(bench: Bench) -> None:
    """A setup that would run for minutes ends with its workspace, and calls nobody any more."""
    bench.new(command=["true"], setup=[["sleep", "300"]])
    await bench.provider.create(bench.order, bench.grant())
    await until(lambda: len(bench.living) > 1)
    await bench.provider.destroy(bench.order.workspace_id)
    assert bench.living == []
    assert bench.api.of("ready") == bench.api.of("failed") == []
