"""`taskrunner reconcile`: one sweep of the reconciler, at once."""

import asyncio
import os
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from cli.data_dir import DEFAULT, DataDir, DataDirOption
from cli.edge import read_settings
from cli.screen import JsonOption, complain, console, print_json

if TYPE_CHECKING:
    from pydantic import SecretStr

    from domain.reconcile import Report


def reconcile(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; say what a sweep would do.")] = False,
    as_json: JsonOption = False,
    data_dir: DataDirOption = DEFAULT,
) -> None:
    """Compare rows, workflows and the ledger now, and mend what disagrees; a control worker does it."""
    from temporalio.client import WorkflowFailureError
    from temporalio.exceptions import FailureError
    from temporalio.service import RPCError

    # Of the stack of the data directory, unless the environment names another Temporal.
    address = DataDir(data_dir).address().get("temporal")
    if address:
        os.environ.setdefault("TEMPORAL_ADDRESS", str(address))
    try:
        report = asyncio.run(_sweep(dry_run=dry_run, payload_keys=read_settings().payload_keys))
    except (RPCError, RuntimeError) as error:
        complain(f"Temporal did not answer: {str(error).splitlines()[0]}; start a stack, or set TEMPORAL_ADDRESS")
        raise typer.Exit(1) from None
    except WorkflowFailureError as error:
        cause: BaseException = error
        while isinstance(cause, FailureError | WorkflowFailureError) and cause.cause is not None:
            cause = cause.cause
        complain(f"the sweep failed: {cause}; is a control worker running, and the database there?")
        raise typer.Exit(1) from None
    if as_json:
        print_json(report.model_dump(mode="json"))
        return
    screen = console()
    did = "would have done" if report.dry_run else "did"
    screen.print(f"{report.open_rows} open tasks, {report.described} workflows looked at, in {report.seconds:g} s")
    if not report.counts:
        screen.print("nothing to mend")
    for action, count in sorted(report.counts.items()):
        ids = ", ".join(report.ids.get(action, []))
        screen.print(f"{did} {action}: {count}  [dim]{escape(ids)}[/]")
    for told in report.errors:
        complain(told)


async def _sweep(*, dry_run: bool, payload_keys: "SecretStr") -> "Report":
    """Run the workflow and return its report. Raises RPCError, WorkflowFailureError."""
    from datetime import timedelta

    from domain.ids import new_id
    from domain.names import CONTROL_QUEUE, RECONCILE, RECONCILE_SCHEDULE
    from domain.reconcile import Report, SweepOrder
    from worker import connect

    client = await connect(payload_keys=payload_keys)
    report: Report = await client.execute_workflow(
        RECONCILE,
        SweepOrder(dry_run=dry_run),
        id=f"{RECONCILE_SCHEDULE}-by-hand-{new_id()}",
        task_queue=CONTROL_QUEUE,
        result_type=Report,
        execution_timeout=timedelta(minutes=2),
    )
    return report
