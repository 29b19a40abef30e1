"""Mode `agent`: one turn of the command or agent, from its start to `finished`."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from workspaces.inside import artifacts, changes, commands, trees
from workspaces.inside.callbacks import Callbacks, Unheard, now
from workspaces.inside.limits import Limits
from workspaces.inside.output import Output
from workspaces.inside.pulse import Pulse
from workspaces.inside.session import Session, problem, told

DRAIN = 2.0  # seconds for a pipe whose writers are all dead


def run(session: Session, secrets: dict[str, str]) -> None:
    """Run the command, write the exit file, then tell the API: what the API does not hear, the file still says."""
    callbacks = Callbacks(session.callback_url, session.token, traceparent=session.traceparent)
    output = Output(session.log, session.log_limit, callbacks)
    stop = commands.Stop()
    stop.on_sigterm()
    commands.adopt_orphans()
    trees.discard(session.result)  # an earlier turn's
    outcome = _run(session, secrets, callbacks, output, stop)
    early = stop.error
    # From here on a stop cuts the reporting short; what the command did is known and stays.
    stop.then = callbacks.closing.set
    if early:
        outcome["error"] = early
    else:
        _collect(session, callbacks, output, outcome)
    try:
        session.end(outcome)
    except OSError as error:
        output.note(f"the exit file cannot be written: {error.strerror}")
    if early is None or early["code"] == commands.LEASE_EXPIRED:
        try:
            callbacks.post("finished", {**outcome, "error": told(outcome["error"])})
        except Unheard:
            return


def _run(
    session: Session, secrets: dict[str, str], callbacks: Callbacks, output: Output, stop: commands.Stop
) -> dict[str, Any]:
    """Run the command to its end and that of everything it started."""
    limits = Limits(session)
    try:
        child = commands.start(
            session.argv,
            cwd=session.work,
            environment=session.environment_with(secrets),
            resources=session.resources,
            stdin=_stdin(session),
        )
    except commands.Unstartable as failed:
        output.note(str(failed))
        return {"exit_code": failed.exit_code, "result": None, "error": failed.error}
    stop.child = child
    callbacks.on_gone(stop.on_gone)
    output.start()
    pulse = Pulse(callbacks, period=session.heartbeat_seconds, lease=session.lease_seconds, on_lease=stop.on_lease)
    if child.stdout is None:  # pragma: no cover - `start` always gives a pipe
        raise AssertionError
    pump = output.pump(child.stdout)
    code = commands.wait(child)
    pulse.end()
    left = commands.end_all(child)
    commands.reap()
    pump.join(DRAIN)
    if left and stop.error is None:
        output.note(f"{left} processes that the command left running were ended")
    error = (limits.met() if code else None) or (_signalled(-code) if code < 0 else None)
    return {"exit_code": commands.SHELL_SIGNAL - code if code < 0 else code, "result": None, "error": error}


def _stdin(session: Session) -> Path | None:
    if session.stdin is None:
        return None
    path = session.control / f"{session.name}.stdin"
    path.write_text(session.stdin, "utf-8")
    return path


def _signalled(number: int) -> dict[str, Any]:
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    hint = {"SIGXCPU": " It had used up `cpu_seconds`.", "SIGXFSZ": " It wrote a file larger than `disk_mb`."}
    return problem("killed_by_signal", "agent", f"The command was killed by {name}.{hint.get(name, '')}")


def _collect(session: Session, callbacks: Callbacks, output: Output, outcome: dict[str, Any]) -> None:
    """Add the result, upload artifacts and the rest of the log, for as long as the lease lets hope for the API."""
    value, error = artifacts.result(session)
    outcome["result"] = value
    if error and outcome["exit_code"] == 0:
        outcome["error"] = error
    elif error:
        output.note(error["message"])
    until = now() + session.lease_seconds
    patch = changes.patch(session, output)
    if patch:
        artifacts.upload(changes.NAME, patch, callbacks, output, until=until)
    for name, file in artifacts.found(session, output):
        if patch and name == changes.NAME:
            file.close()
            output.note(f"artifact {name} is not kept: the name is taken by the changes of the checkout")
        else:
            artifacts.upload(name, file, callbacks, output, until=until)
    output.close(patience=max(1.0, until - now()))
