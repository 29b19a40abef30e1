"""The real stack in processes of their own, each of which can be killed, stopped, frozen and started again."""

import asyncio
import contextlib
import json
import os
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import httpx2
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from api.auth import new_key
from cli.embedded.postgres import ROLE, SOCKET, Postgres
from cli.embedded.processes import ChildFailedError, ChildProcess
from cli.embedded.temporal import TemporalDevServer, free_port
from domain.names import DEFAULT_PROJECT, NodeId, Scope
from store import keys
from store.engine import Database
from store.migrate import upgrade
from tests.activities.receiver import Receiver, by_path
from tests.faults.points import Armoury
from tests.faults.proxy import LOOPBACK, Proxy
from workspaces.machine_processes import ProcessMachines

CHECKOUT: Final = Path(__file__).parents[2]
PROGRAM: Final = (sys.executable, "-P", str(Path(__file__).with_name("program.py")))
# Shorter than in production where a test would only wait; the order among them is kept.
NUMBERS: Final = {
    "TASKRUNNER_STEP_RETRY__FIRST_DELAY": "0.5",
    "TASKRUNNER_SUPERVISION__HEARTBEAT": "2",
    "TASKRUNNER_SUPERVISION__LEASE": "30",
    "TASKRUNNER_SUPERVISION__LOST_AFTER": "45",
    "TASKRUNNER_DATABASE_POOL": "8",
    # So that what is over by its age is looked for, and nothing is found.
    "TASKRUNNER_RETENTION__TASKS": "P30D",
    "TASKRUNNER_RETENTION__LOGS": "P30D",
    "TASKRUNNER_RETENTION__ARTIFACTS": "P30D",
    "TASKRUNNER_RETENTION__ATTACHMENTS": "P30D",
    "TASKRUNNER_LIMITS__ATTACHMENT": "2000000",
}
# Where nodes are to be lost while a test waits; seconds.
LOST_AFTER, LEASE, HEARTBEAT = 15.0, 8.0, 2.0
SOON_LOST: Final = {
    "TASKRUNNER_SUPERVISION__LOST_AFTER": str(LOST_AFTER),
    "TASKRUNNER_SUPERVISION__LEASE": str(LEASE),
    "TASKRUNNER_SUPERVISION__HEARTBEAT": str(HEARTBEAT),
}
# A node that registers again says the same of itself as before.
LABELS: Final = {"late": "yes"}
# Nodes are made for tasks that ask for this.
MADE: Final = {"made": "yes"}
AGAIN_AFTER: Final = 0.3  # seconds between a death and the next start
PATIENCE: Final = 60.0


class Keeper:
    """A process of ours and its life: started again when it dies, until it is told to stay down."""

    def __init__(self, child: ChildProcess, says: str) -> None:
        self.child = child
        self.deaths = 0
        self._says = says
        self._task: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """The process id; fails when nothing runs."""
        pid = self.child.pid
        assert pid is not None, f"{self.child.name} does not run"
        return pid

    async def up(self) -> None:
        """Start it, and again whenever it dies."""
        await self.child.start()
        self._task = asyncio.create_task(self._keep())

    async def down(self, sign: signal.Signals = signal.SIGKILL) -> None:
        """End it and leave it down."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        if self.child.pid is None:
            return
        self.send(sign)
        await self.child.exited()

    def send(self, sign: signal.Signals) -> bool:
        """Send a signal; whether there was somebody to get it."""
        if self.child.pid is None:
            return False
        try:
            os.kill(self.child.pid, sign)
        except ProcessLookupError:  # it has just died, and nobody has looked yet
            return False
        return True

    async def after(self, deaths: int) -> None:
        """Wait until it has died once more than so often, and works again."""
        await until(lambda: self.deaths > deaths, what=f"{self.child.name} has not died and come back")

    async def ready(self, *, within: float = PATIENCE) -> None:
        """Wait until it runs and works."""
        deadline = time.monotonic() + within
        while self.child.pid is None or not await self.child.said(self._says):
            assert time.monotonic() < deadline, f"{self.child.name} is not up again"
            await asyncio.sleep(0.05)

    async def _keep(self) -> None:
        while True:
            await self.child.exited()
            await asyncio.sleep(AGAIN_AFTER)
            with contextlib.suppress(ChildFailedError):  # its server may be away just now
                await self.child.start()
                self.deaths += 1


async def until(true: Callable[[], bool], *, within: float = PATIENCE, what: str = "") -> None:
    """Return as soon as this is true; fails when it is not in time."""
    deadline = time.monotonic() + within
    while not true():
        assert time.monotonic() < deadline, what or "not in time"
        await asyncio.sleep(0.02)


class FaultStack:
    """PostgreSQL and Temporal behind proxies, APIs behind another, control workers, node workers."""

    def __init__(
        self,
        folder: Path,
        *,
        controls: int = 1,
        nodes: int = 1,
        apis: int = 1,
        slots: int = 4,
        engine: str | None = None,
        more: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        """Set up, not start; `more` goes into the environments of the processes that it names."""
        self.folder = folder
        self.engine = engine
        self._more = more or {}
        self.armoury = Armoury(folder / "faults")
        self.postgres = Postgres(folder / "postgres", fsync=False)
        self.temporal = TemporalDevServer(
            folder / "temporal.db", log=folder / "logs" / "temporal.log", port=0, ui_port=0
        )
        self.to_database = Proxy("postgresql", self._sockets)
        self.to_temporal = Proxy("temporal", lambda: [(LOOPBACK, self.temporal.port)])
        self.api_to_temporal = Proxy("temporal", lambda: [(LOOPBACK, self.temporal.port)])
        self.to_api = Proxy("api", lambda: [(LOOPBACK, port) for port in self._ports])
        self.receiver = Receiver(folder, choose=by_path)
        self.database: Database
        self.client: Client
        self.http: httpx2.AsyncClient
        self.admin = new_key()
        self.controls: list[Keeper] = []
        self.nodes: dict[NodeId, Keeper] = {}
        self.apis: list[Keeper] = []
        self.slots = slots
        self._counts = (controls, nodes, apis)
        self._ports: list[int] = []
        self._exit = AsyncExitStack()

    @property
    def ours(self) -> list[Keeper]:
        """All processes of ours."""
        return [*self.controls, *self.nodes.values(), *self.apis]

    @property
    def effects(self) -> Path:
        """Where commands note what they do."""
        return self.folder / "effects"

    @property
    def program(self) -> tuple[str, ...]:
        """The command line of ours, with the failpoints of this stack."""
        return (*PROGRAM, str(self.folder / "faults"))

    @property
    def machines(self) -> Path:
        """Where the folders of made nodes are."""
        return self.folder / "control" / "machines"

    def data_dir(self, node: NodeId) -> Path:
        """Return a node's own folder."""
        return self.folder / node

    def _sockets(self) -> list[Path]:
        """Return the database's socket; it has none while it is down."""
        return [self.postgres._run / SOCKET] if self.postgres._run else []

    # --- servers ------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start everything."""
        try:
            await self._start_servers()
            await self._start_ours()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop everything."""
        for each in self.ours:
            each.send(signal.SIGCONT)
        await asyncio.gather(*(each.down() for each in self.ours), return_exceptions=True)
        # They outlive who has made them.
        made = ProcessMachines(self.machines, environment={})
        for machine in await made.list():
            await made.destroy(machine)
        await self._exit.aclose()

    async def _start_servers(self) -> None:
        await self.postgres.start()
        self._exit.push_async_callback(self.postgres.stop)
        await asyncio.to_thread(upgrade, self.postgres.url())
        await self.temporal.start()
        self._exit.push_async_callback(self.temporal.stop)
        for proxy in (self.to_database, self.to_temporal, self.api_to_temporal, self.to_api):
            await proxy.start()
            self._exit.push_async_callback(proxy.stop)
        await self.receiver.start()
        self._exit.push_async_callback(self.receiver.stop)
        self.database = Database(self.postgres.url(), pool=3)
        self._exit.push_async_callback(self.database.close)
        self.client = await Client.connect(self.temporal.address, data_converter=pydantic_data_converter)
        self.http = httpx2.AsyncClient(
            base_url=f"http://{self.to_api.address}",
            headers={"Authorization": f"Bearer {self.admin}"},
            timeout=15,
            limits=httpx2.Limits(max_connections=200),
            trust_env=False,
        )
        self._exit.push_async_callback(self.http.aclose)
        await self.key(self.admin, Scope.ADMIN)

    async def key(self, text: str, *scopes: Scope, node: NodeId | None = None) -> None:
        """Let the database know a key."""
        async with self.database.begin("tests.key") as connection:
            await keys.ensure(
                connection,
                sha256=keys.sha256_of(text),
                project=DEFAULT_PROJECT,
                name=node or "admin",
                scopes=scopes,
                node_id=node,
            )

    async def stop_postgres(self) -> None:
        """Shut the database down at once: clients lose their connections."""
        await self.postgres.stop()

    async def start_postgres(self) -> None:
        """Start it again; our own connections to the old one are forgotten."""
        await self.postgres.start()
        await self.database.close()

    async def kill_temporal(self) -> None:
        """Kill Temporal with -9."""
        assert self.temporal.pid is not None
        os.kill(self.temporal.pid, signal.SIGKILL)
        await self.temporal.exited()

    # --- processes of ours --------------------------------------------------------------------------------------

    async def _start_ours(self) -> None:
        controls, nodes, apis = self._counts
        common = self._environment()
        database = {"TASKRUNNER_DATABASE_URL": self._database_url()}
        callback_keys = {"TASKRUNNER_CALLBACK_KEYS": f"k1:{secrets.token_hex(32)}"}
        database |= {
            "TASKRUNNER_WEBHOOK_KEYS": f"k1:{secrets.token_hex(32)}",
            "TASKRUNNER_WEBHOOKS__ALLOWED_NETWORKS": '["127.0.0.0/8", "::1/128"]',
            "TASKRUNNER_WEBHOOKS__PORTS": f"[{self.receiver.port}]",
            "TASKRUNNER_WEBHOOKS__CA_FILE": str(self.receiver.ca),
        }
        for number in range(apis):
            port = free_port(0)
            self._ports.append(port)
            env = common | database | callback_keys | {"TASKRUNNER_PORT": str(port)}
            env["TEMPORAL_ADDRESS"] = self.api_to_temporal.address
            self.apis.append(self._ours(f"api-{number}", "api", env=env))
        fleet = {
            "TASKRUNNER_DATA_DIR": str(self.machines.parent),
            "TASKRUNNER_PROVISIONING__PROVIDER": "process",
            "TASKRUNNER_PROVISIONING__LABELS": json.dumps(MADE),
        }
        control = common | database | fleet
        for number in range(controls):
            self.controls.append(self._ours(f"control-{number}", "worker", "--role", "control", env=control))
        for number in range(nodes):
            node, key = NodeId(f"n{number}"), new_key()
            await self.key(key, Scope.NODES_WRITE, node=node)
            env = common | {
                "TASKRUNNER_NODE_ID": node,
                "TASKRUNNER_NODE_TOKEN": key,
                "TASKRUNNER_NODE_SLOTS": str(self.slots),
                "TASKRUNNER_DATA_DIR": str(self.data_dir(node)),
                "TASKRUNNER_NODE_LABELS": json.dumps(LABELS),
            }
            self.nodes[node] = self._ours(node, "worker", "--role", "node", env=env)
        await asyncio.gather(*(each.up() for each in self.ours))

    def _database_url(self) -> str:
        password = quote(self.postgres._password.read_text(), safe="")
        return f"postgresql+psycopg://{ROLE}:{password}@{self.to_database.address}/{ROLE}"

    def _environment(self) -> dict[str, str]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("TASKRUNNER_", "TEMPORAL_"))}
        return (
            clean
            | NUMBERS
            | {
                "PYTHONPATH": str(CHECKOUT),
                "PYTHONUNBUFFERED": "1",
                "TASKRUNNER_URL": f"http://{self.to_api.address}",
                "TEMPORAL_ADDRESS": self.to_temporal.address,
                "TEMPORAL_NAMESPACE": "default",
                "TEMPORAL_CONFIG_FILE": os.devnull,
            }
        )

    def _ours(self, name: str, *arguments: str, env: Mapping[str, str]) -> Keeper:
        words = "Uvicorn running on" if arguments[0] == "api" else "worker.ready"

        async def ready() -> bool:
            return await child.said(words)

        child = ChildProcess(
            name,
            [*self.program, *arguments],
            log=self.folder / "logs" / f"{name}.log",
            env={**env, **self._more.get(name, {})},
            ready=ready,
        )
        return Keeper(child, words)


@asynccontextmanager
async def running(folder: Path, **counts: Any) -> AsyncIterator[FaultStack]:
    """Give a running stack."""
    stack = FaultStack(folder, **counts)
    await stack.start()
    try:
        yield stack
    finally:
        await stack.stop()
