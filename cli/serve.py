"""`taskrunner worker` and `taskrunner api`: the processes of ours, one by one, as `up` and a container start them."""

import signal
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cli.edge import read_settings
from cli.screen import complain

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from settings import Settings


DRIVER: Final = "postgresql+psycopg"


class Role(StrEnum):
    """What a worker does: the workflows and the mirror, or workspaces on this machine."""

    CONTROL = "control"
    NODE = "node"


def worker(
    role: Annotated[Role, typer.Option(help="control: workflows and mirror; node: workspaces.")] = Role.CONTROL,
    node_id: Annotated[str | None, typer.Option(envvar="TASKRUNNER_NODE_ID", help="This node's id.")] = None,
) -> None:
    """Run one worker until SIGTERM."""
    import node
    import worker as workers
    from cli import journal

    settings = read_settings()
    journal.configure(level=settings.log_level)
    if node_id:
        settings = settings.model_copy(update={"node_id": node_id})
    if role is Role.CONTROL:
        _database_of(settings)
    main = {Role.CONTROL: workers.run_control, Role.NODE: node.run_node}[role]
    run(main(settings))


def api() -> None:
    """Serve the API until SIGTERM."""
    from cli import journal

    settings = read_settings()
    _database_of(settings)
    journal.configure(level=settings.log_level)
    run(_serve(settings))


def _database_of(settings: "Settings") -> None:
    """End where no database is named: a process by itself has none of its own."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    if not settings.database_url:
        complain("set TASKRUNNER_DATABASE_URL; `taskrunner up` has a database of its own")
        raise typer.Exit(2)
    try:
        driver = make_url(settings.database_url).drivername
    except (ArgumentError, ValueError):
        driver = ""
    if driver != DRIVER:
        complain(f"TASKRUNNER_DATABASE_URL: must be {DRIVER}://USER:PASSWORD@HOST:PORT/NAME")
        raise typer.Exit(2)


def run(main: "Coroutine[Any, Any, None]") -> None:
    """Run a process; one that is asked for what is not installed, or a node that is not let in, says so and ends."""
    import worker as workers
    from activities.membership import NotJoined
    from telemetry.traces import ExporterMissingError

    try:
        workers.run(main)
    except ExporterMissingError as error:
        complain(str(error))
        raise typer.Exit(2) from None
    except (NotJoined, workers.EngineAwayError) as error:
        complain(str(error))
        raise typer.Exit(1) from None


async def _serve(settings: "Settings") -> None:
    import uvicorn

    from api.app import create_app
    from api.hearing import hearing
    from api.wire import BoundedProtocol
    from codec import codec_of, decode_json
    from worker import composed

    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises them again after it has stopped
        signal.signal(number, lambda *_: None)
    codec = codec_of(settings.payload_keys)
    async with composed(settings, service="taskrunner-api", lazy=True) as parts:
        config = uvicorn.Config(
            create_app(
                settings=settings,
                database=parts.database,
                gateway=parts.gateway,
                courier=parts.dispatcher,
                runs=parts.runs,
                decode=partial(decode_json, codec) if codec else None,
                metrics=parts.counting.metrics,
                traces=parts.traces,
            ),
            http=BoundedProtocol,
            host=settings.host,
            port=settings.port,
            access_log=False,
            log_config=None,  # the journal has its lines
            server_header=False,
            timeout_graceful_shutdown=10,
        )
        async with hearing(parts.database, lost_after=settings.supervision.lost_after):
            await uvicorn.Server(config).serve()
