"""Tasks on a running stack, driven through its API."""

import json
import time
from collections.abc import Callable
from typing import Any, TypeVar

import httpx2

from tests.cli.stacks import StackProcess

T = TypeVar("T")


def client_of(stack: StackProcess) -> httpx2.Client:
    """Give a client of the stack's API with the admin's key."""
    address: dict[str, Any] = json.loads((stack.data_dir / "address.json").read_text())
    headers = {"Authorization": f"Bearer {(stack.data_dir / 'admin.key').read_text().strip()}"}
    return httpx2.Client(base_url=address["api"], headers=headers, trust_env=False, timeout=30)


def ended(client: httpx2.Client, task: str) -> dict[str, Any]:
    """Wait until a task has ended, and give it."""
    return until(lambda: found if (found := client.get(f"/v1/tasks/{task}").json())["outcome"] else None)


def until(look: Callable[[], T | None]) -> T:
    """Look until there is something."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if (found := look()) is not None:
            return found
        time.sleep(0.05)
    raise AssertionError("nothing came")


def create(client: httpx2.Client, **body: Any) -> str:
    """Create a task."""
    answer = client.post("/v1/tasks", json={"retry": {"max_attempts": 1}} | body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])
