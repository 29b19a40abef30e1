"""A caller as the contract wants one: every POST has a key, and what got no answer is asked again."""

import asyncio
import secrets
import time
from pathlib import Path
from typing import Any, Final

import httpx2

from domain.lifecycle import TERMINAL
from tests.faults.collect import Witness
from tests.faults.invariants.logs import ITEM
from tests.faults.snapshot import Created, Read, Told

PATIENCE: Final = 180.0
AGAIN: Final = 0.2
LOOK: Final = 0.15
# What a command does around its own work: it says who it is where everybody can append, and holds a lock that the
# kernel drops with it. Whoever finds the lock taken is the second one.
NOTE: Final = (
    'echo "$TASKRUNNER_TASK_ID $TASKRUNNER_ATTEMPT $TASKRUNNER_TURN $TASKRUNNER_WORKSPACE_ID {}" >> "$EFFECTS"'
)
WRAP: Final = (
    'exec 9>>"$LOCKS.$TASKRUNNER_TASK_ID"; $LOCK || ' + NOTE.format("double") + "; " + NOTE.format("start") + "; "
    "({}); code=$?; " + NOTE.format("stop") + "; exit $code"
)
# The same as `flock -n 9`, which busybox does not know; a shell leaves it in one piece.
FLOCK: Final = 'python3 -c __import__("fcntl").flock(9,6)'


def noting(effects: Path, script: str, **more: Any) -> dict[str, Any]:
    """Return the body of a task whose command notes its start and its end, and whose setup notes itself."""
    return {
        "command": ["sh", "-c", WRAP.format(script)],
        "setup": [["sh", "-c", NOTE.format("prepare")]],
        "env": {"EFFECTS": str(effects), "LOCKS": str(effects), "LOCK": "flock -n 9"},
        "retry": {"max_attempts": 4, "backoff": 0.2},
        **more,
    }


def printing(script: str, **more: Any) -> dict[str, Any]:
    """Return the same for a container: it reaches no file of ours, so its output has the notes."""
    env = {"EFFECTS": "/dev/stdout", "LOCKS": "/tmp/agent", "LOCK": FLOCK}
    return noting(Path(), script, env=env, provider="docker", **more)


class RefusedError(AssertionError):
    """The API said no, and will say it again."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status} {text}")
        self.status = status


class Caller:
    """Creates tasks, follows them, reads their logs; remembers what it was told."""

    def __init__(self, http: httpx2.AsyncClient, witness: Witness | None = None) -> None:
        self.http = http
        self.witness = witness or Witness()

    async def send(
        self,
        method: str,
        path: str,
        *,
        patience: float = PATIENCE,
        final: bool = True,
        doubts: list[str] | None = None,
        **options: Any,
    ) -> httpx2.Response:
        """Send until there is an answer that stays; with `final`, raise RefusedError for one of 4xx.

        Each try whose effect nobody knows is added to `doubts`.
        """
        deadline = time.monotonic() + patience
        while True:
            answer, failed = None, ""
            try:
                answer = await self.http.request(method, path, **options)
            except httpx2.TransportError as error:
                failed = repr(error)
            if answer is not None and answer.status_code < 500 and not _in_progress(answer):
                if final and not answer.is_success:
                    raise RefusedError(answer.status_code, answer.text)
                return answer
            if doubts is not None:
                doubts.append(answer.text if answer else failed)
            assert time.monotonic() < deadline, f"no answer from {path}: {answer.text if answer else failed}"
            await asyncio.sleep(AGAIN)

    async def post(self, path: str, body: Any = None, **options: Any) -> Any:
        """Post with a key of its own."""
        headers = {"Idempotency-Key": secrets.token_hex(8)} | options.pop("headers", {})
        return (await self.send("POST", path, json=body, headers=headers, **options)).json()

    async def create(self, **body: Any) -> str:
        """Create a task; its label says which item of the load it is."""
        item = secrets.token_hex(8)
        body["labels"] = {ITEM: item, **body.get("labels", {})}
        try:
            made = await self.post("/v1/tasks", body, headers={"Idempotency-Key": item})
        except AssertionError:
            self.witness.created.append(Created(item=item, task=None))
            raise
        self.witness.created.append(Created(item=item, task=made["id"]))
        return str(made["id"])

    async def create_run(self, **body: Any) -> str:
        """Create a run."""
        run = str((await self.post("/v1/runs", body))["id"])
        self.witness.created_runs.append(run)
        return run

    async def show(self, task: str) -> dict[str, Any]:
        """Return the task as the API shows it."""
        return dict((await self.send("GET", f"/v1/tasks/{task}")).json())

    async def reaches(self, task: str, *, within: float = PATIENCE, **wanted: Any) -> dict[str, Any]:
        """Return the task once it has these values; fails when it ends without them, or not in time."""
        deadline = time.monotonic() + within
        while True:
            row = await self.show(task)
            if all(row[name] in (value if isinstance(value, tuple) else (value,)) for name, value in wanted.items()):
                return row
            ended = row["status"] in TERMINAL
            assert not ended, f"{task} is {row['status']} ({row['error']}) and never had {wanted}"
            assert time.monotonic() < deadline, f"{task} is {row['status']} at {row['step']}, not {wanted}"
            await asyncio.sleep(LOOK)

    async def ends(self, task: str, *, within: float = PATIENCE) -> dict[str, Any]:
        """Return the task once it has ended."""
        return await self.reaches(task, within=within, status=tuple(TERMINAL))

    async def cancel(self, task: str) -> int:
        """Ask to cancel; returns the status of the answer: 200, 202, or 409 for a task that ended otherwise."""
        headers = {"Idempotency-Key": secrets.token_hex(8)}
        return (await self.send("POST", f"/v1/tasks/{task}/cancel", final=False, headers=headers)).status_code

    async def delete(self, task: str) -> None:
        """Delete a task; that it is gone already is as good."""
        self.witness.deleting.add(task)
        if (await self.send("DELETE", f"/v1/tasks/{task}", final=False)).status_code in (204, 404):
            self.witness.deleted.add(task)

    async def read(self, reader: str, task: str, *, limit: int = 5) -> None:
        """Page through a log from its start, across whatever happens, until its task has ended."""
        seqs: list[int] = []
        types: list[str] = []
        while True:
            row = await self.show(task)
            page = await self.send(
                "GET", f"/v1/tasks/{task}/events", params={"fromSeq": (seqs or [0])[-1] + 1, "limit": limit}
            )
            items = page.json()["items"]
            seqs += [item["seq"] for item in items]
            types += [item["type"] for item in items]
            if not items and row["status"] in TERMINAL:
                self.witness.reads.append(Read(reader=reader, task=task, seqs=tuple(seqs), types=tuple(types)))
                return
            await asyncio.sleep(LOOK)

    # --- as the controller of an external workspace ---------------------------------------------------------------

    async def token(self, workspace: str) -> str:
        """Claim a callback token."""
        return str((await self.send("POST", f"/v1/workspaces/{workspace}/callback-token", json={})).json()["token"])

    async def tell(
        self, row: dict[str, Any], kind: str, token: str, *, nonce: str | None = None, ours: bool = True
    ) -> int:
        """Post a callback that carries a nonce; returns the status of the answer that stays."""
        nonce = nonce or secrets.token_hex(8)
        bodies: dict[str, dict[str, Any]] = {
            "ready": {"status": "running", "details": {"nonce": nonce}},
            "failed": {"error": {"code": "broken", "message": nonce}},
            "finished": {"exit_code": 0, "result": {"nonce": nonce}},
        }
        doubts: list[str] = []
        answer = await self.send(
            "POST",
            f"/v1/workspaces/{row['workspace_id']}/{kind}",
            final=False,
            doubts=doubts,
            json=bodies[kind],
            headers={"Authorization": f"Bearer {token}"},
        )
        self.witness.told.append(
            Told(
                task=row["id"],
                workspace=row["workspace_id"],
                attempt=row["attempt"],
                kind=kind,
                turn=1,
                nonce=nonce,
                status=answer.status_code,
                result=answer.json().get("result", ""),
                ours=ours,
                in_doubt=bool(doubts),
            )
        )
        return answer.status_code


def _in_progress(answer: httpx2.Response) -> bool:
    return answer.status_code == 409 and answer.json().get("code") == "in_progress"
