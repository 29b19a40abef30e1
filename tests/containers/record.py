"""What an engine says of a node's containers: which there are, and when agents worked in them."""

import contextlib
import itertools
import sys
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import docker

from workspaces import container


def of_node(address: str, node: str) -> set[str]:
    """Return the workspaces of this node that have a container, running or not."""
    with contextlib.closing(docker.DockerClient(base_url=address)) as client:
        found = client.api.containers(all=True, filters={"label": f"{container.NODE}={node}"})
    return {each["Labels"][container.WORKSPACE] for each in found}


@dataclass(frozen=True, order=True)
class Work:
    """From the start of an agent in a container to the end of the last one that was started there; nanoseconds."""

    began: int
    ended: int
    workspace: str


@contextlib.contextmanager
def recorded(address: str, node: str) -> Iterator[list[Mapping[str, Any]]]:
    """Give a list that gets every event of this node's containers while it is open."""
    events: list[Mapping[str, Any]] = []
    with contextlib.closing(docker.DockerClient(base_url=address, timeout=None)) as client:
        stream = client.events(decode=True, filters={"type": "container", "label": f"{container.NODE}={node}"})
        thread = threading.Thread(target=lambda: events.extend(stream), name="record", daemon=True)
        thread.start()
        try:
            yield events
        finally:
            stream.close()
            thread.join()


def work(events: Iterable[Mapping[str, Any]]) -> dict[str, list[Work]]:
    """Return for each task when agents worked for it, by container."""
    began: dict[tuple[str, str], int] = {}
    ended: dict[tuple[str, str], int] = {}
    open_: dict[str, set[str]] = defaultdict(set)
    for event in events:
        told, when = event["Actor"]["Attributes"], int(event["timeNano"])
        place = told[container.TASK], told[container.WORKSPACE]
        action, _, argv = event["Action"].partition(": ")
        if action == "exec_start" and " agent " in argv:
            began.setdefault(place, when)
            open_[place[1]].add(told["execID"])
        elif action == "exec_die" and told["execID"] in open_[place[1]]:
            open_[place[1]].remove(told["execID"])
            ended[place] = when
        elif action == "die" and open_[place[1]]:
            open_[place[1]].clear()
            ended[place] = when
    found: dict[str, list[Work]] = defaultdict(list)
    for place, when in began.items():
        task, workspace = place
        found[task].append(Work(when, ended.get(place, sys.maxsize), workspace))
    return found


def doubles(events: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Name the tasks of which an agent began in one container while one lived in another."""
    for task, works in work(events).items():
        ordered = sorted(works)
        for earlier, later in itertools.pairwise(ordered):
            if later.began < earlier.ended:
                yield f"{task}: an agent began in {later.workspace} while one lived in {earlier.workspace}"
