"""What people do with the system, one scene each: together they pass every failpoint."""

import asyncio
import contextlib
import secrets
import signal
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import httpx2
from sqlalchemy import text

from domain.names import NodeId
from domain.policy import Supervision
from tests.cli.stacks import StackProcess
from tests.faults import fleet_scenes, run_scenes, sweep_scenes
from tests.faults.caller import Caller, noting
from tests.faults.stack import LABELS, FaultStack, until
from tests.faults.sweeps import Ends, Scene

# Larger than one chunk of a blob, so that it is appended in two.
FILE: Final = b"x" * 1_100_000
STARTS: Final = 4
AWAY: Final = 6.0  # seconds: the API's own try, the dispatcher's, and the delay between them
FORCED_AFTER: Final = Supervision().cancel.total_seconds()
TOO_LARGE: Final = b"x" * 2_100_000


async def local(stack: FaultStack, caller: Caller) -> Ends:
    """A command that prints, in a workspace on a node."""
    body = noting(stack.effects, 'echo hello; echo \'{"went": "well"}\' > "$TASKRUNNER_RESULT_FILE"')
    return {await caller.create(**body): ("completed",)}


async def failing(stack: FaultStack, caller: Caller) -> Ends:
    """A command that fails; it is the command's own fault, so there is one attempt."""
    return {await caller.create(**noting(stack.effects, "exit 3")): ("failed",)}


async def crowd(stack: FaultStack, caller: Caller) -> Ends:
    """More tasks than slots: some wait, and are granted what others release."""
    bodies = [noting(stack.effects, "sleep 0.3", priority=1 + number % 5) for number in range(6)]
    return dict.fromkeys(await asyncio.gather(*(caller.create(**body) for body in bodies)), ("completed",))


async def files(stack: FaultStack, caller: Caller) -> Ends:
    """An attachment goes in, an artifact comes out."""
    made = await caller.send("POST", "/v1/attachments", params={"name": "in.bin"}, content=FILE)
    script = 'cp "$TASKRUNNER_ATTACHMENTS_DIR/in.bin" "$TASKRUNNER_ARTIFACTS_DIR/out.bin"'
    task = await caller.create(**noting(stack.effects, script, attachments=[made.json()["id"]]))
    return {task: ("completed",)}


async def refused_file(stack: FaultStack, caller: Caller) -> Ends:  # noqa: ARG001 - a scene's signature
    """An attachment that is larger than it may be, and does not say so before."""

    async def pieces() -> Any:
        for start in range(0, len(TOO_LARGE), 100_000):
            yield TOO_LARGE[start : start + 100_000]

    while (
        await caller.send("POST", "/v1/attachments", params={"name": "big"}, content=pieces(), final=False)
    ).status_code != 413:
        pass
    return {}


async def external(stack: FaultStack, caller: Caller) -> Ends:  # noqa: ARG001
    """A workspace of somebody else: claimed, alive, ready, progressing, finished; each callback comes twice."""
    task = await caller.create(command=["true"], provider="external", retry={"max_attempts": 1})
    row = await caller.reaches(task, status=("delegated", "in_progress"))
    token = await caller.token(row["workspace_id"])
    path, headers = f"/v1/workspaces/{row['workspace_id']}", {"Authorization": f"Bearer {token}"}
    await caller.send("POST", f"{path}/heartbeat", headers=headers, json={})
    await caller.send("POST", f"{path}/progress", headers=headers, json={"percent": 50})
    await caller.send("POST", f"{path}/logs", headers=headers, params={"offset": 0}, content=b"hello\n")
    for kind in ("ready", "finished"):
        nonce = secrets.token_hex(8)
        for _ in range(2):
            await caller.tell(row, kind, token, nonce=nonce)
    return {task: ("completed",)}


async def deferred(stack: FaultStack, caller: Caller) -> Ends:
    """A callback that comes while Temporal is away for longer than its first redelivery takes."""
    task = await caller.create(command=["true"], provider="external", retry={"max_attempts": 1})
    row = await caller.reaches(task, status=("delegated", "in_progress"))
    token = await caller.token(row["workspace_id"])
    away = (stack.to_temporal, stack.api_to_temporal)
    for proxy in away:
        proxy.refuse()
    try:
        await caller.tell(row, "ready", token)
        await asyncio.sleep(AWAY)
    finally:
        for proxy in away:
            proxy.heal()
    await caller.tell(row, "finished", token)
    return {task: ("completed",)}


async def cancelled(stack: FaultStack, caller: Caller) -> Ends:
    """A running command and a waiting workspace are cancelled."""
    running = await caller.create(**noting(stack.effects, "sleep 60"))
    waiting = await caller.create(command=["true"], provider="external")
    await caller.reaches(running, step="running")
    for task in (running, waiting):
        await caller.cancel(task)
    return dict.fromkeys((running, waiting), ("cancelled",))


async def forced(stack: FaultStack, caller: Caller) -> Ends:
    """A cancel that the attempt cannot acknowledge: somebody holds its row until the deadline is over."""
    task = await caller.create(command=["true"], provider="external")
    await caller.reaches(task, step="workspace_dispatch")
    await caller.cancel(task)
    async with stack.database.begin("tests.hold") as connection:
        await connection.execute(text("SELECT FROM tasks WHERE id = :task FOR UPDATE"), {"task": task})
        await asyncio.sleep(FORCED_AFTER + 2)
    return {task: ("cancelled",)}


async def started_later(stack: FaultStack, caller: Caller) -> Ends:
    """A task that is made ready, and started by a second call."""
    task = await caller.create(**noting(stack.effects, "true", start=False))
    await caller.post(f"/v1/tasks/{task}/start")
    return {task: ("completed",)}


async def retried(stack: FaultStack, caller: Caller) -> Ends:
    """A task that failed is tried again by hand, and does better."""
    marker = stack.folder / f"tried-{secrets.token_hex(4)}"
    task = await caller.create(**noting(stack.effects, f'[ -e "{marker}" ] || exit 3'))
    await caller.ends(task)
    marker.touch()
    await caller.post(f"/v1/tasks/{task}/retry", {"from_attempt": 1})
    return {task: ("completed",)}


async def steered(stack: FaultStack, caller: Caller) -> Ends:  # noqa: ARG001
    """A task is paused while it waits, resumed, held at a breakpoint, and resumed again."""
    task = await caller.create(command=["true"], provider="external", retry={"max_attempts": 1})
    path = f"/v1/tasks/{task}"
    row = await caller.reaches(task, step="workspace_dispatch")
    paused = await caller.post(f"{path}/pause", {"reason": "a look"})
    await caller.reaches(task, paused=True)
    await caller.send("PUT", f"{path}/breakpoints", json={"after": ["workspace_dispatch"]})
    await caller.post(f"{path}/resume", {"token": paused["token"]})
    token = await caller.token(row["workspace_id"])
    held = await caller.reaches(task, paused=True)
    await caller.post(f"{path}/resume", {"token": held["pause_token"]})
    for kind in ("ready", "finished"):
        await caller.tell(row, kind, token)
    return {task: ("completed",)}


async def conversation(stack: FaultStack, caller: Caller) -> Ends:  # noqa: ARG001
    """One task is told a message and cancelled in its second turn; another one is closed."""
    ends: dict[str, tuple[str, ...]] = {}
    for outcome in ("cancelled", "completed"):
        task = await caller.create(command=["true"], provider="external", retry={"max_attempts": 1}, followup=True)
        row = await caller.reaches(task, step="workspace_dispatch")
        token = await caller.token(row["workspace_id"])
        for kind in ("ready", "finished"):
            await caller.tell(row, kind, token)
        await caller.reaches(task, step="awaiting_followup")
        if outcome == "completed":
            await caller.post(f"/v1/tasks/{task}/close", {})
        else:
            await caller.post(f"/v1/tasks/{task}/followups", {"message": "go on"})
            await caller.cancel(task)
        ends[task] = (outcome,)
    return ends


async def slow_workspace(stack: FaultStack, caller: Caller) -> Ends:
    """A workspace that is not ready in time: the node is asked whether it has it, and has it."""
    body = noting(stack.effects, "true") | {"setup": [["sleep", "3"]], "retry": {"max_attempts": 1}}
    return {await caller.create(**body, timeouts={"workspace_ready": 1}): ("failed",)}


async def late_node(stack: FaultStack, caller: Caller) -> Ends:
    """A node that was registered and has not reported in: a task waits for it."""
    node = NodeId("n0")
    stack.nodes[node].send(signal.SIGSTOP)  # it would report in as soon as it heard what it is taken for
    async with stack.database.begin("tests.late_node") as connection:
        await connection.execute(text("UPDATE nodes SET status = 'gone' WHERE id = :node"), {"node": node})
    known = {"id": node, "slots": stack.slots, "labels": LABELS}
    await caller.post("/v1/nodes", known)
    task = await caller.create(**noting(stack.effects, "true", node_labels=LABELS))
    try:
        await caller.reaches(task, step="node_agent_ready", within=20)
    finally:
        await caller.post(f"/v1/nodes/{node}/ready")
        stack.nodes[node].send(signal.SIGCONT)
    return {task: ("completed",)}


async def keys(stack: FaultStack, caller: Caller) -> Ends:  # noqa: ARG001
    """A key is made and revoked."""
    made = await caller.post("/v1/keys", {"name": "k", "scopes": ["tasks:read"]})
    await caller.send("DELETE", f"/v1/keys/{made['id']}", final=False)
    return {}


async def watched(stack: FaultStack, caller: Caller) -> Ends:
    """Somebody reads the project's stream from its start while a task runs."""
    ends = await local(stack, caller)
    for _ in range(3):
        with contextlib.suppress(httpx2.TransportError):
            async with caller.http.stream("GET", "/v1/stream", params={"fromSeq": 1}) as answer:
                async for _ in answer.aiter_lines():
                    break
    return ends


async def first_start(stack: FaultStack, caller: Caller) -> Ends:  # noqa: ARG001
    """Somebody starts an embedded stack for the first time, again when that fails, and looks at its tasks."""
    embedded = StackProcess(stack.folder / f"up-{secrets.token_hex(4)}", program=stack.program)

    def start_it() -> None:
        for _ in range(STARTS):
            with contextlib.suppress(AssertionError):
                embedded.up()
                break
            embedded.kill()
        embedded.run("tasks", "list")
        embedded.stop()

    await asyncio.to_thread(start_it)
    return {}


async def reported(stack: FaultStack, caller: Caller) -> Ends:
    """An operator asks for the health report while a task runs."""
    began = datetime.now(UTC)
    ends = await local(stack, caller)
    while True:  # a report is the same for a few seconds
        report = (await caller.send("GET", "/v1/health/report")).json()
        if datetime.fromisoformat(report["at"]) > began:
            return ends
        await asyncio.sleep(0.5)


async def session(stack: FaultStack, caller: Caller) -> Ends:  # noqa: ARG001
    """A browser's session is begun and ended."""
    await caller.post("/v1/sessions", {})
    await caller.send("DELETE", "/v1/sessions", final=False)
    return {}


async def deleted(stack: FaultStack, caller: Caller) -> Ends:
    """A task that has ended is deleted, with all that belongs to it."""
    for task in await external(stack, caller):
        await caller.ends(task)
        await caller.delete(task)
    return {}


async def announced(stack: FaultStack, caller: Caller) -> Ends:
    """A receiver that is busy at first gets a task's end, all the same and again when it is asked for."""
    hook = await caller.post("/v1/webhooks", {"url": f"{stack.receiver.origin}/busy", "events": ["task.completed"]})
    path = f"/v1/webhooks/{hook['id']}"
    await caller.post(f"{path}/rotate")
    (task,) = ends = await local(stack, caller)
    await caller.ends(task)
    sent = await _delivered(caller, path, task)
    before = _heard(stack, sent["id"])
    assert before >= 2
    await caller.post(f"{path}/deliveries/{sent['id']}/redeliver")
    await until(lambda: _heard(stack, sent["id"]) > before, what="it was not delivered again")
    await caller.send("DELETE", path, final=False)
    return ends


async def _delivered(caller: Caller, path: str, task: str) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while True:
            page = await caller.send("GET", f"{path}/deliveries", params={"state": "delivered"})
            for item in page.json()["items"]:
                if item["task_id"] == task:
                    return dict(item)
            await asyncio.sleep(0.2)


def _heard(stack: FaultStack, message: str) -> int:
    return len([got for got in stack.receiver.got if got.headers["webhook-id"] == message])


async def unannounced(stack: FaultStack, caller: Caller) -> Ends:
    """A receiver that has gone: its webhook is disabled."""
    hook = await caller.post("/v1/webhooks", {"url": f"{stack.receiver.origin}/gone", "events": ["task.completed"]})
    ends = await local(stack, caller)
    async with asyncio.timeout(60):
        while True:
            page = (await caller.send("GET", "/v1/webhooks", params={"limit": 100})).json()
            if [each for each in page["items"] if each["id"] == hook["id"] and each["disabled_at"]]:
                break
            await asyncio.sleep(0.2)
    await caller.send("DELETE", f"/v1/webhooks/{hook['id']}", final=False)
    return ends


EVERYDAY: Final[tuple[Scene, ...]] = (
    local,
    failing,
    crowd,
    files,
    external,
    cancelled,
    started_later,
    retried,
    steered,
    conversation,
)
# By the failpoint, or by what it begins with: which scene passes it. What is not here is passed by `local`.
SCENE_OF: Final[Mapping[str, Scene]] = {
    "artifacts.": files,
    "attachments.": files,
    "blobs.drop": refused_file,
    "blobs.": files,
    "callbacks.heartbeat": external,
    "callbacks.progress": external,
    "engine.cancel": cancelled,
    "feeds.": watched,
    "force.": forced,
    "outbox.give_time": cancelled,
    "outbox.cancel_again": forced,
    "outbox.defer_callback": deferred,
    "engine.signal": external,
    "keys.": keys,
    "keys.ensure": first_start,
    "nodes.": late_node,
    "nodes.beat": local,
    "nodes.hear": local,
    "api.beat": local,
    "placement.wait_for_node": late_node,
    "placement.wait_for_slot": crowd,
    "conversations.": conversation,
    "engine.close": conversation,
    "engine.follow_up": conversation,
    "engine.polled": reported,
    "engine.problems": reported,
    "engine.pause": steered,
    "provider.inspect": slow_workspace,
    "sessions.": session,
    "tasks.delete": deleted,
    "provider.locate": files,
    "provider.transfer_attachment": files,
    "tasks.cancel": cancelled,
    "tasks.pause": steered,
    "tasks.resume": steered,
    "tasks.retry": retried,
    "tasks.set_breakpoints": steered,
    "tasks.start": started_later,
    **run_scenes.SCENE_OF,
    **fleet_scenes.SCENE_OF,
    **sweep_scenes.SCENE_OF,
    "webhooks.": announced,
    "webhooks.disable": unannounced,
}


def scene_of(point: str) -> Scene:
    """Return the scene that passes this failpoint; the longest name that fits wins."""
    fits = [name for name in SCENE_OF if point.startswith(name)]
    return SCENE_OF[max(fits, key=len)] if fits else local


async def play(scene: Scene, stack: FaultStack, caller: Caller, *, within: float = 90.0) -> None:
    """Play a scene to its end; each of its tasks must end as the scene says."""
    for task, allowed in (await scene(stack, caller)).items():
        row = await caller.ends(task, within=within)
        assert row["status"] in allowed, f"{task} is {row['status']}: {row['error']}"
