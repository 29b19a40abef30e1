"""`taskrunner up`: the whole stack on this machine, until it is told to stop."""

import asyncio
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.data_dir import DEFAULT, DataDir, DataDirOption, RunsAlreadyError
from cli.edge import read_settings
from cli.screen import complain, console, escape

if TYPE_CHECKING:
    from settings import Settings


def up(
    *,
    temporal_port: Annotated[int, typer.Option(help="Of the embedded Temporal; 0 takes any.")] = 7233,
    temporal_ui_port: Annotated[int, typer.Option(help="Of its UI; 0 takes any.")] = 8233,
    data_dir: DataDirOption = DEFAULT,
) -> None:
    """Start PostgreSQL, Temporal, workers and API, print where they are, and run until Ctrl-C."""
    data = DataDir(data_dir)
    settings = read_settings()
    try:
        with data.locked():
            asyncio.run(_run(data, settings, (temporal_port, temporal_ui_port)))
    except RunsAlreadyError as error:
        complain(str(error))
        raise typer.Exit(1) from None


async def _run(data: DataDir, settings: "Settings", temporal_ports: tuple[int, int]) -> None:
    from cli.embedded.stack import Stack

    screen = console()
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(sign, over.set)
    stack = Stack(
        data,
        settings,
        environ=os.environ,
        say=lambda line: screen.print(escape(line)),
        temporal_ports=temporal_ports,
    )
    starting = asyncio.create_task(stack.start())
    stopping = asyncio.create_task(over.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.wait({starting})
        return
    addresses = await starting
    screen.print(f"API          {addresses.api}")
    screen.print(f"API docs     {addresses.docs}")
    screen.print(f"Temporal UI  {addresses.temporal_ui or '(your own Temporal)'}")
    screen.print(f"data         {escape(str(_short(data.path)))}")
    screen.print("ready; Ctrl-C stops it")
    await stopping
    screen.print("stopping")
    await stack.stop()


def _short(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
