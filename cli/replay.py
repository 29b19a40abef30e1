"""`taskrunner replay`: whether today's workflows still follow the histories of yesterday."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

import typer
from pydantic import SecretStr

from cli.edge import read_settings
from cli.screen import JsonOption, complain, console, escape, print_json


def replay(
    folder: Annotated[Path, typer.Argument(metavar="DIR", exists=True, file_okay=False, help="Histories as *.json.")],
    *,
    as_json: JsonOption = False,
) -> None:
    """Replay every history in DIR against the TaskRunner; exit 1 when one fails or there is none.

    Encrypted histories need the TASKRUNNER_PAYLOAD_KEYS that they were written with.
    """
    paths = sorted(folder.glob("**/*.json"))
    if not paths:
        complain(f"no histories (*.json) in {folder}")
        raise typer.Exit(1)
    failures = asyncio.run(_replay(paths, read_settings().payload_keys))
    results = [
        {"history": str(path.relative_to(folder)), "failure": failures.get(path.name), "ok": path.name not in failures}
        for path in paths
    ]
    if as_json:
        print_json(results)
    else:
        for result in results:
            mark = "[green]ok[/]    " if result["ok"] else "[red]failed[/]"
            reason = f"  {escape(str(result['failure']))}" if result["failure"] else ""
            console().print(f"{mark} {escape(str(result['history']))}{reason}")
    raise typer.Exit(1 if failures else 0)


async def _replay(paths: list[Path], payload_keys: SecretStr) -> dict[str, str]:
    """Return the failures by file name."""
    from temporalio.client import WorkflowHistory
    from temporalio.runtime import Runtime, TelemetryConfig
    from temporalio.worker import Replayer

    from codec import data_converter
    from worker import SANDBOX
    from workflows.task_runner import TaskRunner

    async def histories() -> AsyncIterator[WorkflowHistory]:
        for path in paths:
            yield WorkflowHistory.from_json(path.name, path.read_text())

    replayer = Replayer(
        workflows=[TaskRunner],
        data_converter=data_converter(payload_keys),
        workflow_runner=SANDBOX,
        runtime=Runtime(telemetry=TelemetryConfig(logging=None)),  # the core would write warnings to standard output
    )
    failures: dict[str, str] = {}
    async with replayer.workflow_replay_iterator(histories()) as results:
        async for result in results:
            if result.replay_failure:
                failures[result.history.workflow_id] = str(result.replay_failure)
    return failures
