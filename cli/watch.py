"""`taskrunner watch`: all running tasks, live."""

import asyncio

from cli.data_dir import DEFAULT, DataDirOption
from cli.remote import connect
from cli.screen import JsonOption, console


def watch(*, as_json: JsonOption = False, data_dir: DataDirOption = DEFAULT) -> None:
    """Show all running tasks, live, until Ctrl-C; elsewhere than on a terminal, a line for each change."""
    from cli.panel import Changes, Panel
    from cli.watcher import watch

    with connect(data_dir) as remote:
        screen = console()
        lines = as_json or not screen.is_terminal
        remote.get("/v1/tasks", limit=1)  # an API that is not there, or refuses the key, is no reason to wait
        try:
            asyncio.run(watch(remote, Changes(screen, as_json=as_json) if lines else Panel(screen, remote.url)))
        except (KeyboardInterrupt, asyncio.CancelledError):
            return  # Ctrl-C and SIGTERM are how it ends
