"""`taskrunner doctor`: what is missing or broken, and how to mend it."""

import asyncio
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta

import typer

from cli.data_dir import DEFAULT, DataDir, DataDirOption
from cli.embedded.identity import NoIdentityError, identity_for
from cli.embedded.processes import ChildFailedError
from cli.remote import RemoteError, connect
from cli.screen import JsonOption, console, escape, print_json

OLDEST_PYTHON = (3, 11)
ROOM = 1024**3  # bytes; below it PostgreSQL and workspaces soon fail
PATIENCE = timedelta(seconds=10)
MARKS = {"ok": "[green]ok[/]     ", "note": "[yellow]note[/]   ", "broken": "[red]broken[/] "}


@dataclass(frozen=True, slots=True)
class Finding:
    """One checked fact. `note` is a thing to know, `broken` a thing to mend."""

    check: str
    state: str
    says: str
    mend: str = ""


def doctor(*, as_json: JsonOption = False, data_dir: DataDirOption = DEFAULT) -> None:
    """Check this machine, the installation and the running stack; exit 1 when something is broken."""
    data = DataDir(data_dir)
    findings = [found for check in CHECKS for found in check(data)]
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            console().print(f"{MARKS[finding.state]}{finding.check:<14}{escape(finding.says)}")
            if finding.mend:
                console().print(f"{'':<21}→ {escape(finding.mend)}")
    raise typer.Exit(1 if any(finding.state == "broken" for finding in findings) else 0)


def _python(_: DataDir) -> list[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info >= OLDEST_PYTHON:
        return [Finding("python", "ok", version)]
    return [Finding("python", "broken", version, "install Python 3.11 or later")]


def _git(_: DataDir) -> list[Finding]:
    if shutil.which("git"):
        return [Finding("git", "ok", _version("git", "--version"))]
    return [Finding("git", "broken", "not found on PATH", "install git: workspaces clone repositories with it")]


def _settings(_: DataDir) -> list[Finding]:
    from pydantic import ValidationError

    from settings import Settings

    try:
        Settings()
    except ValidationError as error:
        sentences = "; ".join(str(problem["msg"]) for problem in error.errors())
        return [Finding("settings", "broken", sentences, "correct the TASKRUNNER_… variables of this environment")]
    return [Finding("settings", "ok", "consistent")]


def _folder(data: DataDir) -> list[Finding]:
    there = next(path for path in (data.path, *data.path.parents) if path.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        return [Finding("data", "broken", f"{there} is not writable", "choose another folder with --data-dir")]
    free = shutil.disk_usage(there).free
    findings = [Finding("data", "ok", f"{data.path}, {free // 1024**2} MiB free")]
    if free < ROOM:
        findings = [
            Finding("data", "broken", f"only {free // 1024**2} MiB free at {there}", "make room: 1 GiB or more")
        ]
    findings += [
        Finding("data", "broken", f"{key} can be read by others", f"chmod 600 {key}")
        for key in sorted(data.path.glob("*.key"))
        if stat.S_IMODE(key.stat().st_mode) & 0o077
    ]
    return findings


def _postgres(data: DataDir) -> list[Finding]:
    if os.environ.get("TASKRUNNER_DATABASE_URL"):
        return _own_database(os.environ["TASKRUNNER_DATABASE_URL"])
    from cli.embedded.postgres import EMBEDDED_EXTRA, binaries

    try:
        program = binaries() / "postgres"
        identity_for(data.path / "postgres" / "data", binary=program)
    except ChildFailedError:
        return [Finding("postgresql", "broken", "the embedded PostgreSQL is not installed", EMBEDDED_EXTRA)]
    except NoIdentityError as error:
        return [Finding("postgresql", "broken", "cannot run as this user", str(error))]
    return [Finding("postgresql", "ok", f"embedded, {_version(str(program), '--version')}")]


def _own_database(url: str) -> list[Finding]:
    from sqlalchemy.exc import SQLAlchemyError

    from store.migrate import drift

    try:
        differences = drift(url)
    except (SQLAlchemyError, ValueError) as error:
        says = str(error).partition("\n")[0]
        return [Finding("postgresql", "broken", says, "correct TASKRUNNER_DATABASE_URL, or start that server")]
    if differences:
        says = f"your own, {len(differences)} differences from this version's schema"
        return [Finding("postgresql", "broken", says, "run `taskrunner db upgrade`")]
    return [Finding("postgresql", "ok", "your own, up to date")]


def _temporal(_: DataDir) -> list[Finding]:
    if os.environ.get("TEMPORAL_ADDRESS"):
        return asyncio.run(_own_temporal(os.environ["TEMPORAL_ADDRESS"]))
    from cli.embedded.temporal import EMBEDDED_EXTRA, temporal_cli

    try:
        program = temporal_cli()
    except ChildFailedError:
        return [Finding("temporal", "broken", "the embedded Temporal is not installed", EMBEDDED_EXTRA)]
    return [Finding("temporal", "ok", f"embedded, {_version(str(program), '--version')}")]


async def _own_temporal(address: str) -> list[Finding]:
    from temporalio.service import RPCError

    import worker
    from cli.engine import missing_attributes

    try:
        async with asyncio.timeout(PATIENCE.total_seconds()):
            missing = await missing_attributes(await worker.connect())
    except (RuntimeError, RPCError, TimeoutError) as error:
        says = f"no answer from {address}: {error or 'timeout'}"
        return [
            Finding("temporal", "broken", says, "correct TEMPORAL_ADDRESS (and TLS, API key), or start that server")
        ]
    if missing:
        mend = " && ".join(
            f"temporal operator search-attribute create --name {name} --type Keyword" for name in missing
        )
        return [Finding("temporal", "broken", f"search attributes are missing: {', '.join(missing)}", mend)]
    return [Finding("temporal", "ok", f"your own at {address}, search attributes registered")]


def _supervision(_: DataDir) -> list[Finding]:
    if sys.platform == "linux" and shutil.which("setpriv"):
        return []
    mend = "install util-linux (setpriv), or stop leftovers by hand after a kill -9 of `taskrunner up`"
    return [Finding("supervision", "note", "children of a killed `up` may go on for a while here", mend)]


def _stack(data: DataDir) -> list[Finding]:
    running = data.address()
    if not running and not os.environ.get("TASKRUNNER_URL"):
        return [Finding("stack", "note", f"none runs on {data.path}", "start one with `taskrunner up`")]
    with connect(data.path) as remote:
        try:
            remote.text("/readyz")
            nodes = remote.get("/v1/nodes")["items"]
        except RemoteError as error:
            mend = f"look at {data.logs}, or start it again with `taskrunner up`"
            return [Finding("stack", "broken", str(error), mend)]
        live = [node for node in nodes if node["status"] in ("ready", "warm")]
        if not live:
            mend = f"look at {data.logs / 'node-worker.log'}, or start a node with `taskrunner worker --role node`"
            return [Finding("stack", "broken", f"the API at {remote.url} has no node that is ready", mend)]
        return [Finding("stack", "ok", f"API at {remote.url}, {len(live)} of {len(nodes)} nodes ready")]


CHECKS: tuple[Callable[[DataDir], list[Finding]], ...] = (
    _python,
    _git,
    _settings,
    _folder,
    _postgres,
    _temporal,
    _supervision,
    _stack,
)


def _version(*argv: str) -> str:
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"(no answer: {error})"
