"""The whole stack under one supervisor: PostgreSQL, migrations, Temporal, control worker, node worker, API."""

import asyncio
import os
import secrets
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta

from sqlalchemy.exc import SQLAlchemyError
from temporalio.service import RPCError

from cli.data_dir import DataDir
from cli.embedded.postgres import Postgres
from cli.embedded.processes import ChildFailedError, ChildProcess, Supervisor, first_line
from cli.embedded.temporal import PORT, UI_PORT, TemporalDevServer, free_port
from cli.engine import register_attributes
from domain.names import DEFAULT_PROJECT, NodeId, Scope
from settings import Settings
from store import keys
from store.engine import Database
from store.migrate import upgrade
from worker import connect
from workspaces.secrets import PREFIX as SECRET_PREFIX

# -P: what lies in the current folder (somebody's own settings.py) must not stand in for our modules.
OURS = (sys.executable, "-P", "-m", "cli.main")
# What each of ours writes to its log once it works.
READY = {"worker": "worker.ready", "api": "Uvicorn running on"}
DRAIN = timedelta(seconds=20)
# Each child gets those of these that it needs, and no other.
HANDED_OUT = (
    "TASKRUNNER_API_KEY",
    "TASKRUNNER_CALLBACK_KEYS",
    "TASKRUNNER_DATABASE_URL",
    "TASKRUNNER_NODE_TOKEN",
    "TASKRUNNER_PAYLOAD_KEYS",
    "TASKRUNNER_WEBHOOK_KEYS",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where a running stack answers."""

    api: str
    docs: str
    temporal: str
    temporal_ui: str
    database: str
    metrics: Mapping[str, str]  # of api, control and node; none where the settings want none
    pid: int


class ServerAwayError(ChildFailedError):
    """A server that the environment names does not answer, or refuses."""


class Stack:
    """Everything that a task needs, on this machine.

    `environ` is the supervisor's environment: with TASKRUNNER_DATABASE_URL or TEMPORAL_ADDRESS in it, that server is
    used and the embedded one is not started. Call `start` with the data directory locked. The ports of Temporal are
    wished for, as the API's in the settings: a taken one gives way to the next, 0 to any; the next start of the same
    data directory wishes for what it got, so that addresses in links and in workspaces stay good.
    """

    def __init__(
        self,
        data: DataDir,
        settings: Settings,
        *,
        environ: Mapping[str, str],
        say: Callable[[str], None],
        temporal_ports: tuple[int, int] = (PORT, UI_PORT),
    ) -> None:
        self._data = data
        self._settings = settings
        self._environ = dict(environ)
        self._say = say
        self._temporal_ports = temporal_ports
        self._supervisor = Supervisor(say=say)

    async def start(self) -> Addresses:
        """Start what is missing, in order, and return the addresses. Stops what it started when a later part fails."""
        self._data.prepare()
        try:
            return await self._start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop everything that was started, the last one first."""
        self._data.forget_address()
        await self._supervisor.stop()

    async def _start(self) -> Addresses:
        database_url = await self._database()
        temporal, temporal_ui, common = await self._temporal()
        port = free_port(self._data.port("api", self._settings.port), ip=self._settings.host)
        self._keep_port("api", self._settings.port, port)
        api = f"http://{self._settings.host}:{port}"
        common |= {
            "TASKRUNNER_DATA_DIR": str(self._data.path),
            "TASKRUNNER_PORT": str(port),
            "TASKRUNNER_URL": self._settings.url or api,
            "TASKRUNNER_TEMPORAL_UI_URL": temporal_ui,
            "PYTHONUNBUFFERED": "1",
        }
        database = {"TASKRUNNER_DATABASE_URL": database_url}
        if payload_keys := self._settings.payload_keys.get_secret_value():
            common["TASKRUNNER_PAYLOAD_KEYS"] = payload_keys  # whoever reads or writes a history needs them
        callback_keys, webhook_keys, node_token = await self._keys(database_url)
        control_plane = common | database | {"TASKRUNNER_WEBHOOK_KEYS": webhook_keys}
        # What tasks may use is the node's alone.
        secrets_of_tasks = {key: value for key, value in self._environ.items() if key.startswith(SECRET_PREFIX)}
        node_only = {"TASKRUNNER_NODE_TOKEN": node_token} | secrets_of_tasks
        metrics, ports = self._metrics()
        control = self._ours("control worker", "worker", "--role", "control", env=control_plane | ports["control"])
        node = self._ours("node worker", "worker", "--role", "node", env=common | node_only | ports["node"])
        web_only = {"TASKRUNNER_CALLBACK_KEYS": callback_keys}
        web = self._ours("API", "api", env=control_plane | web_only | ports["api"])
        await self._supervisor.start(control, node, web)
        addresses = Addresses(
            api=api,
            docs=f"{api}/docs",
            temporal=temporal,
            temporal_ui=temporal_ui,
            database="own" if self._settings.database_url else "embedded",
            metrics=metrics,
            pid=os.getpid(),
        )
        self._data.write_address(asdict(addresses))
        return addresses

    def _metrics(self) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
        """Return where each process serves its metrics, if any does, and the environment that tells it so.

        The API has the port of the settings, the others those after it.
        """
        host, first = self._settings.metrics_host, self._settings.metrics_port
        addresses, environments, taken = {}, {}, set[int]()
        for name in ("api", "control", "node"):
            environments[name] = {"TASKRUNNER_METRICS_PORT": ""}
            if first is not None:
                port = free_port(first, ip=host, taken=taken)
                taken.add(port)
                addresses[name] = f"http://{host}:{port}/metrics"
                environments[name] = {"TASKRUNNER_METRICS_PORT": str(port)}
        return addresses, environments

    async def _database(self) -> str:
        own = self._settings.database_url
        if not own:
            server = Postgres(self._data.path / "postgres")
            await self._supervisor.start(server)
        try:
            await asyncio.to_thread(upgrade, own or server.url())
        except SQLAlchemyError as error:
            raise ServerAwayError(f"the database could not be brought up to date: {first_line(error)}") from error
        return own or server.url()

    async def _temporal(self) -> tuple[str, str, dict[str, str]]:
        """Return the address, the UI's address, and the environment in which a child of ours finds it."""
        passed_on = {
            key: value
            for key, value in self._environ.items()
            if key not in HANDED_OUT and not key.startswith(SECRET_PREFIX)
        }
        own = passed_on.get("TEMPORAL_ADDRESS")
        if own:
            try:
                await register_attributes(await connect())
            except (RPCError, RuntimeError) as error:
                raise ServerAwayError(
                    f"no Temporal answers at {own} (TEMPORAL_ADDRESS): {first_line(error)}"
                ) from error
            return own, self._settings.temporal_ui_url, passed_on
        port, ui_port = self._temporal_ports
        server = TemporalDevServer(
            self._data.path / "temporal.db",
            log=self._data.logs / "temporal.log",
            port=self._data.port("temporal", port),
            ui_port=self._data.port("temporal_ui", ui_port),
        )
        await self._supervisor.start(server)
        self._keep_port("temporal", port, server.port)
        self._keep_port("temporal_ui", ui_port, server.ui_port)
        # A person's own Temporal profile (TLS, an API key) is not meant for the embedded server.
        others = {key: value for key, value in passed_on.items() if not key.startswith("TEMPORAL_")}
        ours = {"TEMPORAL_ADDRESS": server.address, "TEMPORAL_NAMESPACE": "default", "TEMPORAL_CONFIG_FILE": os.devnull}
        return server.address, server.ui_url, others | ours

    async def _keys(self, database_url: str) -> tuple[str, str, str]:
        """Make the four keys at the first start, and see to it that the database knows the two API keys."""
        admin = self._data.keep_secret("admin", f"tr_{secrets.token_urlsafe(32)}")
        node = self._data.keep_secret("node", f"tr_{secrets.token_urlsafe(32)}")
        callback = self._settings.callback_keys.get_secret_value() or self._data.keep_secret(
            "callback", f"k1:{secrets.token_hex(32)}"
        )
        webhook = self._settings.webhook_keys.get_secret_value() or self._data.keep_secret(
            "webhook", f"k1:{secrets.token_hex(32)}"
        )
        known = Database(database_url, pool=1)
        try:
            async with known.begin("keys.ensure") as connection:
                for name, key, scopes, node_id in (
                    ("admin", admin, (Scope.ADMIN,), None),
                    ("node", node, (Scope.NODES_WRITE,), NodeId(self._settings.node_id)),
                ):
                    await keys.ensure(
                        connection,
                        sha256=keys.sha256_of(key),
                        project=DEFAULT_PROJECT,
                        name=name,
                        scopes=scopes,
                        node_id=node_id,
                    )
        except SQLAlchemyError as error:
            raise ServerAwayError(f"the database did not take the keys: {first_line(error)}") from error
        finally:
            await known.close()
        return callback, webhook, node

    def _ours(self, name: str, *arguments: str, env: Mapping[str, str]) -> ChildProcess:
        log = self._data.logs / f"{name.lower().replace(' ', '-')}.log"

        async def ready() -> bool:
            return await child.said(READY[arguments[0]])

        return (child := ChildProcess(name, [*OURS, *arguments], log=log, env=env, ready=ready, grace=DRAIN))

    def _keep_port(self, name: str, wanted: int, got: int) -> None:
        if wanted not in {0, got}:
            self._say(f"port {wanted} is taken: {name} is on {got}")
        self._data.keep_port(name, wanted, got)
