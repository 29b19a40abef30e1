"""Mode `prepare`: clone, setup, then `ready` or `failed`."""

from __future__ import annotations

from typing import Any

from workspaces.inside import commands, trees
from workspaces.inside.callbacks import Callbacks, Unheard
from workspaces.inside.git import GitFailed, clone
from workspaces.inside.output import Output
from workspaces.inside.pulse import Pulse
from workspaces.inside.session import Session, masked, problem, told

DRAIN = 0.5  # seconds for the rest of a command's output; what it left running may hold the pipe


def run(session: Session, secrets: dict[str, str]) -> None:
    """Make the work directory what the task asks for, and say so."""
    callbacks = Callbacks(session.callback_url, session.token, traceparent=session.traceparent)
    output = Output(session.log, session.log_limit, callbacks)
    stop = commands.Stop()
    stop.then = callbacks.closing.set
    stop.on_sigterm()
    callbacks.on_gone(stop.on_gone)
    details: dict[str, Any] = {}
    error = None
    if session.repo or session.setup:
        output.start()
        pulse = Pulse(callbacks, period=session.heartbeat_seconds, lease=session.lease_seconds)
        commands.adopt_orphans()
        error = _prepare(session, secrets, output, stop, details)
        pulse.end()
    error = stop.error or error
    session.end({"error": error})
    if stop.error is None:
        output.close(patience=session.lease_seconds)
        try:
            if error:
                callbacks.post("failed", {"error": told(error)})
            else:
                callbacks.post("ready", {"status": "running", "details": details})
        except Unheard:
            return


def _prepare(
    session: Session, secrets: dict[str, str], output: Output, stop: commands.Stop, details: dict[str, Any]
) -> dict[str, Any] | None:
    """Clone and set up; return the error, if one came."""
    try:
        if session.repo:
            _empty(session)
            details["commit"] = clone(session, session.repo, secrets, output)
        for argv in session.setup:
            if stop.error:
                return stop.error
            _set_up(session, argv, secrets, output)
    except GitFailed as failed:
        return failed.error
    except commands.Unstartable as failed:
        output.note(str(failed))
        return problem("setup_failed", "workspace", str(failed))
    except SetupFailed as failed:
        output.note(str(failed).partition("\n")[0])
        return problem("setup_failed", "workspace", masked(str(failed), secrets))
    return None


class SetupFailed(Exception):  # noqa: N818 - the fact
    """A setup command that ended with another exit code than 0."""


def _set_up(session: Session, argv: list[str], secrets: dict[str, str], output: Output) -> None:
    output.note(f"setup: {argv}")
    output.tail = b""
    child = commands.start(
        argv, cwd=session.work, environment=session.environment_with(secrets), resources=session.resources
    )
    if child.stdout is None:  # pragma: no cover - `start` always gives a pipe
        raise AssertionError
    pump = output.pump(child.stdout)
    code = commands.wait(child)
    pump.join(DRAIN)
    if code:
        said = output.tail.decode("utf-8", "replace").strip()
        raise SetupFailed(f"{argv} ended with exit code {code}; its last output:\n{said}")


def _empty(session: Session) -> None:
    """Remove what an interrupted clone left."""
    for path in session.work.iterdir():
        if trees.is_folder(path):
            trees.remove(path)
        else:
            path.unlink()
