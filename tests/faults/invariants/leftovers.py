"""Invariant 7: nothing is held that nobody needs, nothing is missing that somebody needs."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

from domain.lifecycle import TERMINAL, TaskStatus
from domain.spec import Provider
from tests.faults.snapshot import Row, Snapshot

OPEN = frozenset({"intent", "created"})
KEPT = frozenset({"released", "retained"})
AT_WORK = frozenset({TaskStatus.DELEGATED, TaskStatus.IN_PROGRESS})
WORKING = frozenset({"ready", "warm"})


def leftovers(snapshot: Snapshot) -> Iterator[str]:
    """No orphan process, directory, slot, waiter, intent, callback or ledger entry; whoever works holds its slot."""
    live = {
        (task, row["attempt"]): row for task, row in snapshot.tasks.items() if TaskStatus(row["status"]) not in TERMINAL
    }
    yield from _ledger(snapshot, live)
    yield from _slots(snapshot)
    yield from _queues(snapshot, live)
    yield from _places(snapshot)


def _owner(row: Row) -> tuple[str, int]:
    return row["task_id"], row["attempt"]


def _ledger(snapshot: Snapshot, live: dict[tuple[str, int], Row]) -> Iterator[str]:
    held: dict[tuple[str, int], Counter[str]] = defaultdict(Counter)
    for entry in snapshot.ledger:
        if entry["state"] in OPEN:
            held[_owner(entry)][entry["kind"]] += 1
            if _owner(entry) not in live:
                yield f"the ledger holds {entry['kind']} {entry['tag']} for an attempt that is over"
    tags = {entry["tag"] for entry in snapshot.ledger}
    for workspace in snapshot.workspaces:
        if workspace["id"] not in tags:
            yield f"workspace {workspace['id']} has no entry in the ledger"
        if workspace["status"] not in KEPT and _owner(workspace) not in live:
            yield f"workspace {workspace['id']} is {workspace['status']}, and its attempt is over"
    yield from _holdings(held, live)


def _holdings(held: Mapping[tuple[str, int], Counter[str]], live: dict[tuple[str, int], Row]) -> Iterator[str]:
    for owner, row in live.items():
        if row["status"] in AT_WORK:
            wanted = {"workspace": 1}
            if row["spec"].get("provider", Provider.LOCAL) != Provider.EXTERNAL:
                wanted["slot"] = 1
            if dict(held[owner]) != wanted:
                yield f"{owner} works and holds {dict(held[owner])} instead of {wanted}"


def _slots(snapshot: Snapshot) -> Iterator[str]:
    taken = Counter(entry["node_id"] for entry in snapshot.ledger if entry["kind"] == "slot" and entry["state"] in OPEN)
    for node in snapshot.nodes:
        if node["used"] != taken[node["id"]]:
            yield f"node {node['id']} counts {node['used']} slots as used, the ledger {taken[node['id']]}"
        if node["used"] > node["slots"]:
            yield f"node {node['id']} has {node['slots']} slots and uses {node['used']}"


def _queues(snapshot: Snapshot, live: dict[tuple[str, int], Row]) -> Iterator[str]:
    for waiter in snapshot.waiters:
        if _owner(waiter) not in live:
            yield f"{_owner(waiter)} is over and waits for a slot"
        # What the task asks for, and not what its place in the queue says of it.
        row = snapshot.tasks.get(waiter["task_id"], {})
        wanted, provider = row.get("spec", {}).get("node_labels", {}), row.get("spec", {}).get("provider", "local")
        free = [
            node["id"]
            for node in snapshot.nodes
            if node["status"] in WORKING
            and node["used"] < node["slots"]
            and wanted.items() <= node["labels"].items()
            and provider in node.get("facts", {}).get("providers", ["local"])
            and waiter.get("pinned") in (None, node["id"])
        ]
        if waiter["granted"] is None and free:
            yield f"{_owner(waiter)} waits, and {free[0]} has a free slot"
    for intent in snapshot.outbox:
        if _owner(intent) not in live:
            yield f"the outbox holds a {intent['kind']} for {_owner(intent)}, which is over"
    for callback in snapshot.inbox:
        if callback["delivered_at"] is None and _owner(callback) not in live:
            yield f"the inbox holds {callback['kind']} of {callback['workspace_id']} as undelivered, and it is over"


def _places(snapshot: Snapshot) -> Iterator[str]:
    tags = {entry["tag"] for entry in snapshot.ledger if entry["kind"] == "workspace"}
    needed = {entry["tag"] for entry in snapshot.ledger if entry["state"] != "released"}
    for place in snapshot.places:
        for workspace in sorted(place.directories | place.containers | set(place.processes)):
            if workspace not in tags:
                yield f"{place.node} has {workspace}, of which the ledger knows nothing"
            elif workspace not in needed:
                yield f"{place.node} still has {workspace}, which was released"
        for workspace in sorted(place.buried - tags):
            yield f"{place.node} had {workspace}, of which the ledger knows nothing"
