"""`taskrunner health`: how it is, with an exit code by the level."""

from datetime import timedelta
from typing import Any, Final

import typer

from cli.data_dir import DEFAULT, DataDirError, DataDirOption
from cli.remote import RemoteError, connect
from cli.screen import JsonOption, complain, console, duration, escape, print_json

# As monitoring programs expect them; UNKNOWN: the API refused to say.
EXIT_CODES: Final = {"HEALTHY": 0, "WARNING": 1, "CRITICAL": 2}
UNKNOWN: Final = 3
COLOURS: Final = {"HEALTHY": "green", "WARNING": "yellow", "CRITICAL": "red"}


def health(*, as_json: JsonOption = False, data_dir: DataDirOption = DEFAULT) -> None:
    """Tell the level and its reasons; exits with 0 for HEALTHY, 1 for WARNING, 2 for CRITICAL, 3 if it is not told.

    An API that does not answer is CRITICAL.
    """
    try:
        with connect(data_dir) as remote:
            report = remote.get("/v1/health/report")
    except (RemoteError, DataDirError) as error:
        complain(str(error))
        away = isinstance(error, RemoteError) and error.transient
        raise typer.Exit(EXIT_CODES["CRITICAL"] if away else UNKNOWN) from None
    if as_json:
        print_json(report)
    else:
        _show(report)
    raise typer.Exit(EXIT_CODES[report["level"]])


def _show(report: dict[str, Any]) -> None:
    screen = console()
    screen.print(f"[{COLOURS[report['level']]}]{report['level']}[/]")
    for cause in report["reasons"]:
        screen.print(f"  [{COLOURS[cause['level']]}]{cause['level']:8}[/] {escape(cause['text'])}")
    window = duration(timedelta(seconds=report["window_seconds"]))
    if tasks := report["tasks"]:
        screen.print(f"open: {_counts(tasks['open'])}; ended within {window}: {_counts(tasks['ended'])}")
        if report["success_rate"] is not None:
            screen.print(f"{report['success_rate']:.0%} succeeded, {report['average_tries']:.2f} tries a task")
        if tasks["retries"]:
            screen.print(f"retries by cause: {_counts(tasks['retries'])}")
        for task in tasks["stuck_tasks"]:
            screen.print(f"stuck: {escape(task)}")
    if system := report["system"]:
        used, slots = (sum(node[name] for node in system["nodes"]) for name in ("used", "slots"))
        nodes = len(system["nodes"])
        screen.print(f"{nodes} {'node' if nodes == 1 else 'nodes'}, {used} of {slots} slots used")
        if system["sweeps"]:
            screen.print(f"the reconciler within {window}: {_counts(system['sweeps'])}")


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"
