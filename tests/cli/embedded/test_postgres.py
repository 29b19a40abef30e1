import asyncio
import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from cli.embedded.identity import NoIdentityError, identity_for
from cli.embedded.postgres import Postgres, PostgresInUseError, binaries
from cli.embedded.processes import ChildFailedError

ROOT = os.geteuid() == 0
LAUNCHER = """
import asyncio, sys
from pathlib import Path
from cli.embedded.postgres import Postgres

async def main():
    server = Postgres(Path(sys.argv[1]), fsync=False)
    await server.start()
    print(server.pid, server.url(), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop()

asyncio.run(main())
"""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Postgres]:
    """Give a running server of the test's own."""
    server = Postgres(tmp_path / "pg", fsync=False)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Give a folder that every user may pass, as pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="taskrunner-test-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def gone(pid: int) -> bool:
    """Tell whether nothing runs under this number: a zombie that nobody reaps counts as gone."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


async def execute(url: str, statement: str) -> list[tuple[Any, ...]]:
    """Run one statement on a connection of its own and return its rows."""
    async with await psycopg.AsyncConnection.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        cursor = await connection.execute(statement.encode())
        return await cursor.fetchall() if cursor.description else []


async def test_data_survives_kill_9_of_the_server(server: Postgres) -> None:
    """A committed row is read back on the same URL after kill -9 of the postmaster and a start."""
    url, pid = server.url(), server.pid
    assert pid
    await execute(url, "CREATE TABLE kept AS SELECT 7 AS n")

    os.kill(pid, signal.SIGKILL)
    assert await server.exited() == -signal.SIGKILL
    await server.start()

    assert server.url() == url
    assert await execute(url, "SELECT n FROM kept") == [(7,)]


async def test_data_survives_kill_9_of_the_launcher(tmp_path: Path) -> None:
    """A server whose launcher was killed with -9 ends, and a new launcher finds the data."""
    launcher, pid, url = await launch(tmp_path / "pg")
    await execute(url, "CREATE TABLE kept AS SELECT 7 AS n")
    launcher.kill()
    await asyncio.to_thread(launcher.communicate)

    again = Postgres(tmp_path / "pg", fsync=False)
    await again.start()
    try:
        assert again.pid != pid
        assert gone(pid)
        assert await execute(again.url(), "SELECT n FROM kept") == [(7,)]
    finally:
        await again.stop()


async def test_a_server_left_running_is_stopped_first(tmp_path: Path) -> None:
    """Where the kernel did not end the orphan, the next start does, and the data is kept."""
    first = Postgres(tmp_path / "pg", fsync=False)
    await first.start()
    await execute(first.url(), "CREATE TABLE kept AS SELECT 7 AS n")
    assert first._lock
    first._lock.close()  # as if the launcher were gone: the kernel gives its lock back
    assert first.pid
    orphan = psutil.Process(first.pid)

    again = Postgres(tmp_path / "pg", fsync=False)
    await again.start()
    try:
        assert not orphan.is_running()
        assert await first.exited() == 0
        assert await execute(again.url(), "SELECT n FROM kept") == [(7,)]
    finally:
        await again.stop()


async def test_a_second_launcher_of_the_same_data_is_refused(server: Postgres, tmp_path: Path) -> None:
    """It says that another process runs it, and leaves the first one alone."""
    with pytest.raises(PostgresInUseError, match="another process runs the PostgreSQL of"):
        await Postgres(tmp_path / "pg").start()
    assert await execute(server.url(), "SELECT 1") == [(1,)]


async def test_a_pid_file_whose_number_was_taken_over_is_no_obstacle(tmp_path: Path) -> None:
    """A stale pid file with the number of a living stranger is put aside, and the stranger lives."""
    server = Postgres(tmp_path / "pg", fsync=False)
    await server.start()
    pid_file = tmp_path / "pg" / "data" / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    await server.stop()
    pid_file.write_text("\n".join([str(os.getpid()), *lines[1:]]))

    await server.start()
    assert await execute(server.url(), "SELECT 1") == [(1,)]
    await server.stop()


async def test_an_initialisation_that_was_cut_off_is_done_again(tmp_path: Path) -> None:
    """Leftovers of an initialisation that was killed do not stop the next one."""
    half = tmp_path / "pg" / "data.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18")
    server = Postgres(tmp_path / "pg", fsync=False)
    await server.start()
    assert not half.exists()
    await server.stop()


async def test_only_the_socket_and_the_password_open_it(server: Postgres, tmp_path: Path) -> None:
    """No TCP port is open, a wrong password is refused, and the files of the server are closed to others."""
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        await execute(server.url().replace("taskrunner:", "taskrunner:not"), "SELECT 1")
    assert server.pid
    assert not [c for c in psutil.Process(server.pid).net_connections("inet") if c.status == psutil.CONN_LISTEN]
    for path, mode in {"data": 0o700, "run": 0o700, "password": 0o600}.items():
        assert stat.S_IMODE((tmp_path / "pg" / path).stat().st_mode) == mode
    assert await execute(server.url(), "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") == [(False,)]


async def test_commits_are_real_unless_a_test_says_otherwise(tmp_path: Path, server: Postgres) -> None:
    """Fsync is on by default, off on demand."""
    assert await execute(server.url(), "SHOW fsync") == [("off",)]
    durable = Postgres(tmp_path / "durable")
    await durable.start()
    assert await execute(durable.url(), "SELECT current_setting('fsync'), current_setting('synchronous_commit')") == [
        ("on", "on")
    ]
    await durable.stop()


async def test_databases_are_made_from_a_template_and_dropped_with_their_connections(server: Postgres) -> None:
    """A copy has the template's tables; dropping ends an open connection; dropping again is fine."""
    await server.create_database("pattern")
    await execute(server.url("pattern"), "CREATE TABLE seen AS SELECT 1 AS n")
    await server.create_database("copy", template="pattern")
    assert await execute(server.url("copy"), "SELECT n FROM seen") == [(1,)]

    async with await psycopg.AsyncConnection.connect(server.url("copy").replace("+psycopg", "")) as connection:
        await server.drop_database("copy")
        with pytest.raises(psycopg.OperationalError):
            await connection.execute("SELECT 1")
    await server.drop_database("copy")
    assert await execute(server.url(), "SELECT 1 FROM pg_database WHERE datname = 'copy'") == []


async def test_a_database_is_dropped_from_under_its_autovacuum(tmp_path: Path) -> None:
    """It goes, although the role may not end the server's own worker in it, as `WITH (FORCE)` would have to."""
    server = Postgres(tmp_path / "pg", fsync=False)
    await server.start()
    await server.stop()
    with (tmp_path / "pg" / "data" / "postgresql.auto.conf").open("a") as configuration:
        configuration.write(
            "autovacuum_naptime = 1\nautovacuum_vacuum_cost_delay = 100\nautovacuum_vacuum_cost_limit = 1\n"
        )
    await server.start()
    try:
        await server.create_database("vacuumed")
        eager = "autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0"
        await execute(server.url("vacuumed"), f"CREATE TABLE dead (n int) WITH ({eager})")
        await execute(server.url("vacuumed"), "INSERT INTO dead SELECT generate_series(1, 50000)")
        await execute(server.url("vacuumed"), "DELETE FROM dead")
        workers = "SELECT count(*)::int FROM pg_stat_activity WHERE datname = 'vacuumed' AND usename IS NULL"
        async with asyncio.timeout(60):
            while await execute(server.url(), workers) != [(1,)]:  # noqa: ASYNC110 - it is in another process
                await asyncio.sleep(0.05)
        await server.drop_database("vacuumed")
        assert await execute(server.url(), "SELECT datname FROM pg_database WHERE datname = 'vacuumed'") == []
    finally:
        await server.stop()


async def test_a_path_too_long_for_a_socket_gets_a_short_folder_that_is_removed(tmp_path: Path) -> None:
    """The socket lies elsewhere; a start after kill -9 removes the folder left behind, a stop the one in use."""
    root = tmp_path / ("deep" * 20) / "pg"
    note = root / "run-at"
    launcher, _, _ = await launch(root)
    left_behind = Path(note.read_text())
    launcher.kill()
    await asyncio.to_thread(launcher.communicate)
    assert left_behind.exists()

    server = Postgres(root, fsync=False)
    await server.start()
    assert await execute(server.url(), "SELECT 1") == [(1,)]
    in_use = Path(note.read_text())
    assert not left_behind.exists()
    await server.stop()
    assert not in_use.exists()
    assert not note.exists()


async def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    """The error carries the end of the server's own log."""
    server = Postgres(tmp_path / "pg", fsync=False)
    await server.start()
    await server.stop()
    (tmp_path / "pg" / "data" / "PG_VERSION").write_text("9.6\n")
    with pytest.raises(ChildFailedError, match="database files are incompatible with server"):
        await server.start()


async def test_an_ordinary_user_can_run_it(open_folder: Path) -> None:
    """Started by a user that is not root, the data belongs to that user, and it works as for root."""
    prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"] if ROOT else []
    if prefix:
        os.chown(open_folder, 65534, 65534)
        if subprocess.run(
            [*prefix, sys.executable, "-c", "import psycopg"], capture_output=True, check=False
        ).returncode:
            pytest.skip("an ordinary user cannot run this Python")
    launcher, pid, url = await launch(open_folder / "pg", prefix=prefix)
    user = psutil.Process(pid).uids().real
    assert user == (65534 if ROOT else os.geteuid())
    assert (open_folder / "pg" / "data").stat().st_uid == user
    assert await execute(url, "SELECT 1") == [(1,)]
    await asyncio.to_thread(launcher.communicate, "")
    assert gone(pid)


@pytest.mark.skipif(not ROOT, reason="needs root")
async def test_root_lends_it_an_unprivileged_user_and_changes_no_parent(server: Postgres, tmp_path: Path) -> None:
    """Below a 0700 folder of root it runs without root's uid, with one capability at most; no mode is changed."""
    assert server.pid
    assert psutil.Process(server.pid).uids().real != 0
    status = Path(f"/proc/{server.pid}/status").read_text()
    effective = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff"))
    assert effective.bit_count() == 1
    assert stat.S_IMODE(tmp_path.parent.stat().st_mode) == 0o700
    assert (tmp_path.parent.stat().st_uid, tmp_path.stat().st_uid) == (0, 0)


@pytest.mark.skipif(not ROOT, reason="needs root")
async def test_where_everybody_may_pass_it_gets_no_capability(open_folder: Path) -> None:
    """Below folders that others may pass, the server holds no capability at all."""
    identity = identity_for(open_folder / "data", binary=Path("/usr/bin/env"))
    assert not [option for option in identity.prefix if "ambient" in option]


@pytest.mark.skipif(not ROOT, reason="needs root")
async def test_root_without_capabilities_is_told_how_to_mend_it(tmp_path: Path) -> None:
    """A root that may lend nothing gets an error that names the closed folder and both ways out."""
    ask = (
        "from pathlib import Path; from cli.embedded.identity import identity_for; "
        f"identity_for(Path('{tmp_path}/data'), binary=Path('/bin/sh'))"
    )
    process = await asyncio.create_subprocess_exec(
        *("setpriv", "--bounding-set=-dac_override,-dac_read_search"),
        *(sys.executable, "-c", ask),
        stderr=asyncio.subprocess.PIPE,
    )
    _, error = await process.communicate()
    assert process.returncode == 1
    assert NoIdentityError.__name__ in error.decode()
    assert str(tmp_path.parent) in error.decode()
    assert "or run this as an ordinary user" in error.decode()


@pytest.mark.skipif(ROOT, reason="root may run anybody's data")
def test_data_of_another_user_is_refused_with_a_way_out() -> None:
    """An ordinary user that points at somebody else's data is told whose it is."""
    with pytest.raises(NoIdentityError, match="belongs to uid 0"):
        identity_for(Path("/etc"), binary=binaries() / "postgres")


async def launch(root: Path, *, prefix: list[str] | None = None) -> tuple[subprocess.Popen[str], int, str]:
    """Start a launcher in a process of its own; it stops when its input ends."""
    launcher = subprocess.Popen(
        [*(prefix or []), sys.executable, "-c", LAUNCHER, str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert launcher.stdout
    pid, url = (await asyncio.to_thread(launcher.stdout.readline)).split()
    return launcher, int(pid), url
