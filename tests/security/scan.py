"""Looks for texts wherever a running stack may have left them."""

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx2
import psutil
import psycopg
from psycopg import sql
from temporalio.client import Client

from tests.cli.stacks import StackProcess

PAGES = (
    *("/v1/tasks", "/v1/workspaces", "/v1/nodes", "/v1/keys", "/openapi.json", "/docs"),
    *("/livez", "/readyz", "/metrics", "/v1/health/report", "/v1/tasks/none"),
)
OF_TASK = ("", "/events", "/attempts", "/artifacts", "/explain", "/logs")


@dataclass(frozen=True, kw_only=True)
class Found:
    """A text, by its name, and where it was."""

    name: str
    where: str


@dataclass(kw_only=True)
class Scan:
    """What to look for, by name, in one running stack."""

    stack: StackProcess
    texts: dict[str, str]

    @property
    def address(self) -> dict[str, str]:
        """Where the stack is."""
        return dict(json.loads((self.stack.data_dir / "address.json").read_text()))

    def within(self, content: bytes | str, where: str) -> list[Found]:
        """Give those of the texts that are in this content."""
        raw = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
        return [Found(name=name, where=where) for name, text in self.texts.items() if text.encode() in raw]

    def files(self, *, but: Iterable[str] = ()) -> list[Found]:
        """Look into every file below the data directory, and at its name."""
        found = []
        for path in self.stack.data_dir.rglob("*"):
            name = str(path.relative_to(self.stack.data_dir))
            if name in but:
                continue
            found += self.within(name, f"the name of {name}")
            with suppress(FileNotFoundError, IsADirectoryError, OSError):  # sockets, and what goes meanwhile
                found += self.within(path.read_bytes(), name)
        return found

    def database(self) -> list[Found]:
        """Look into every column of every row, compressed or not."""
        url = self.stack.child("cli.main api").environ()["TASKRUNNER_DATABASE_URL"]
        found = []
        with psycopg.connect(url.replace("+psycopg", "")) as connection:
            columns = connection.execute(
                "SELECT table_name, column_name, data_type FROM information_schema.columns"
                " WHERE table_schema = 'public'"
            ).fetchall()
            for table, column, kind in columns:
                cast = "{}" if kind == "bytea" else "convert_to({}::text, 'UTF8')"
                query = sql.SQL("SELECT {} FROM {}").format(
                    sql.SQL(cast).format(sql.Identifier(column)), sql.Identifier(table)
                )
                for (value,) in connection.execute(query):
                    found += self.within(bytes(value or b""), f"table {table}.{column}")
        assert len(columns) > 100
        return found

    async def histories(self) -> list[Found]:
        """Look into the raw bytes of every event of every workflow, and into what the UI lists of each."""
        client = await Client.connect(self.address["temporal"])
        found, events = [], 0
        async for execution in client.list_workflows():
            found += self.within(execution.raw_info.SerializeToString(), f"listing of {execution.id}")
            handle = client.get_workflow_handle(execution.id, run_id=execution.run_id)
            found += self.within((await handle.describe()).raw_description.SerializeToString(), f"UI of {execution.id}")
            async for event in handle.fetch_history_events():
                events += 1
                found += self.within(event.SerializeToString(), f"{execution.id}, event {event.event_id}")
        assert events > 10
        return found

    def processes(self) -> list[Found]:
        """Look into argv and environment of the whole family; an environment is named by its process."""
        found = []
        for process in self.stack.family():
            with suppress(psutil.ZombieProcess, psutil.NoSuchProcess):
                line = process.cmdline()
                found += self.within("\0".join(line), f"argv of {' '.join(line)}")
                found += self.within(json.dumps(process.environ()), f"environment of {role(line)}")
        return found

    def answers(self, key: str, tasks: Iterable[str]) -> list[Found]:
        """Look into everything that the API says of these tasks and of the rest."""
        found = []
        headers = {"Authorization": f"Bearer {key}"}
        with httpx2.Client(base_url=self.address["api"], headers=headers, trust_env=False) as client:
            for path in [*PAGES, *(f"/v1/tasks/{task}{part}" for task in tasks for part in OF_TASK)]:
                answer = client.get(path)
                found += self.within(answer.content + str(answer.headers).encode(), f"GET {path}")
        return found


def role(line: list[str]) -> str:
    """Return what a process of the stack is, from its argv."""
    words = " ".join(line)
    roles = {
        "role control": "control",
        "role node": "node",
        "cli.main api": "api",
        "cli.main up": "up",
        "start-dev": "temporal",
        "postgres": "postgres",
    }
    return next((name for part, name in roles.items() if part in words), words)


def environment_of(pid: int) -> dict[str, str]:
    """Give the environment of a process as it was started."""
    pairs = Path(f"/proc/{pid}/environ").read_bytes().decode("utf-8", "surrogateescape").split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)
