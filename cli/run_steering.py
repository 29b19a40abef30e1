"""`taskrunner runs cancel`, `pause`, `resume`, `retry`, `breakpoints`, `command`: steer a run."""

from typing import Annotated, Final

import typer

from cli import completion
from cli.data_dir import DEFAULT, DataDirOption
from cli.holding import Reason, hold, hold_at, let_go, tell
from cli.remote import connect
from cli.runs import File, RunId, sent
from cli.screen import JsonOption

CANCELS: Final = {
    "requested": "requested; the run ends as soon as its tasks have",
    "applied": "applied; the run is cancelled",
}
PAUSES: Final = {
    "requested": "requested; nothing more is started",
    "applied": "applied; it holds until `taskrunner runs resume`",
}
Names = Annotated[
    list[str] | None, typer.Option(help="A member; may be repeated.", metavar="NAME", autocompletion=completion.members)
]


def cancel(run_id: RunId, *, as_json: JsonOption = False, data_dir: DataDirOption = DEFAULT) -> None:
    """Ask a run to end as cancelled, with all its tasks; asked again, say whether it has."""
    with connect(data_dir) as remote:
        answer = remote.post(f"/v1/runs/{run_id}/cancel", {})
    tell(answer, f"cancel of {run_id}: {CANCELS[answer['result']]}", as_json=as_json)


def pause(
    run_id: RunId,
    reason: Reason = None,
    *,
    as_json: JsonOption = False,
    data_dir: DataDirOption = DEFAULT,
) -> None:
    """Hold a run: tasks that are open go on, no other is started."""
    answer = hold(data_dir, f"/v1/runs/{run_id}", reason)
    tell(answer, f"pause of {run_id}: {PAUSES[answer['result']]}", as_json=as_json)


def resume(
    run_id: RunId,
    token: Annotated[str | None, typer.Option(help="Only if it is held by this token; the run's if left out.")] = None,
    *,
    as_json: JsonOption = False,
    data_dir: DataDirOption = DEFAULT,
) -> None:
    """Let a run go on that is held, or is to be."""
    answer = let_go(data_dir, f"/v1/runs/{run_id}", token)
    tell(answer, f"resume of {run_id}: applied; it goes on", as_json=as_json)


def retry(
    run_id: RunId,
    from_attempt: Annotated[int | None, typer.Option(min=1, help="Only if this is still the latest attempt.")] = None,
    *,
    as_json: JsonOption = False,
    data_dir: DataDirOption = DEFAULT,
) -> None:
    """Make the next attempt of a run that failed or was cancelled; what has completed stays."""
    body = {} if from_attempt is None else {"from_attempt": from_attempt}
    with connect(data_dir) as remote:
        run = remote.post(f"/v1/runs/{run_id}/retry", body)
    tell(run, f"attempt {run['attempt']} of {run_id} is {run['status']}", as_json=as_json)


def breakpoints(
    run_id: RunId,
    before: Names = None,
    after: Names = None,
    *,
    each_step: Annotated[
        bool, typer.Option("--each-step", help="After each superstep; in eager mode, after each member.")
    ] = False,
    as_json: JsonOption = False,
    data_dir: DataDirOption = DEFAULT,
) -> None:
    """Replace a run's breakpoints; none at all takes them away."""
    answer, places = hold_at(data_dir, f"/v1/runs/{run_id}", before, after, each_step=each_step)
    tell(answer, f"breakpoints of {run_id}: {places}", as_json=as_json)


def command(run_id: RunId, file: File, *, as_json: JsonOption = False, data_dir: DataDirOption = DEFAULT) -> None:
    """Change a run that is paused: `append` members and edges, `replace` the next frontier, `skip` members."""
    with connect(data_dir) as remote:
        answer = sent(remote, f"/v1/runs/{run_id}/commands", file)
    added = f"{len(answer['members'])} members and {answer['edges']} edges added"
    tell(answer, f"command {answer['n']} to {run_id}: stored, {added}", as_json=as_json)
