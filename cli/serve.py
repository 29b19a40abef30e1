"""`taskrunner worker` and `taskrunner api`: the processes of ours, one by one, as `up` and a container start them."""

import signal
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from cli.edge import read_settings

if TYPE_CHECKING:
    from settings import Settings


class Role(StrEnum):
    """What a worker does: the workflows and the mirror, or workspaces on this machine."""

    CONTROL = "control"
    NODE = "node"


def worker(
    role: Annotated[Role, typer.Option(help="control: workflows and mirror; node: workspaces.")] = Role.CONTROL,
    node_id: Annotated[str | None, typer.Option(envvar="TASKRUNNER_NODE_ID", help="This node's id.")] = None,
) -> None:
    """Run one worker until SIGTERM."""
    import worker as workers
    from cli import journal

    settings = read_settings()
    journal.configure(level=settings.log_level)
    if node_id:
        settings = settings.model_copy(update={"node_id": node_id})
    main = {Role.CONTROL: workers.run_control, Role.NODE: workers.run_node}[role]
    workers.run(main(settings))


def api() -> None:
    """Serve the API until SIGTERM."""
    from cli import journal
    from worker import run

    settings = read_settings()
    journal.configure(level=settings.log_level)
    run(_serve(settings))


async def _serve(settings: "Settings") -> None:
    import uvicorn

    from api.app import create_app
    from api.wire import BoundedProtocol
    from codec import codec_of, decode_json
    from worker import composed

    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises them again after it has stopped
        signal.signal(number, lambda *_: None)
    codec = codec_of(settings.payload_keys)
    async with composed(settings, lazy=True) as parts:
        config = uvicorn.Config(
            create_app(
                settings=settings,
                database=parts.database,
                gateway=parts.gateway,
                courier=parts.dispatcher,
                decode=partial(decode_json, codec) if codec else None,
                metrics=parts.counting.metrics,
            ),
            http=BoundedProtocol,
            host=settings.host,
            port=settings.port,
            access_log=False,
            log_config=None,  # the journal has its lines
            server_header=False,
            timeout_graceful_shutdown=10,
        )
        await uvicorn.Server(config).serve()
