"""Schemathesis over the document: whatever is sent there is no 5xx, and answers are as declared."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from domain.names import Scope
from tests.api.harness import serve
from tests.api.test_openapi import DOCUMENT
from workflows.gateway import Gateway

# A stream of what lives has no end to wait for; `test_stream.py` and the security suite send it bad cursors.
schema = schemathesis.openapi.from_dict(json.loads(DOCUMENT.read_text())).exclude(path_regex=r"/stream$")
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@dataclass(kw_only=True)
class Target:
    """A server, and what of it is real: a key, a task, its workspace with a token."""

    url: str
    key: str
    task: str
    run: str
    workspace: str
    token: str


@pytest.fixture(scope="module")
def target(database_url: str) -> Iterator[Target]:
    """Give a server in a thread of its own: schemathesis is synchronous, our pool belongs to one loop."""
    listener = socket.create_server(("127.0.0.1", 0))
    found: list[Target] = []
    begun, ending = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def run() -> None:
        client = await Client.connect("127.0.0.1:1", lazy=True, data_converter=pydantic_data_converter)
        async for api in serve(database_url, Gateway(client)):
            attempt = await api.live()
            run = (await api.create_run())["id"]
            server = uvicorn.Server(uvicorn.Config(api.app, log_config=None, access_log=False, ws="none"))
            serving = asyncio.ensure_future(server.serve(sockets=[listener]))
            key = await api.key(*Scope)
            host, port = listener.getsockname()
            found.append(
                Target(
                    url=f"http://{host}:{port}",
                    key=key["Authorization"],
                    task=attempt.task,
                    run=run,
                    workspace=attempt.workspace,
                    token=attempt.token["Authorization"],
                )
            )
            begun.set()
            await ending.wait()
            server.should_exit = True
            await serving

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()), name="fuzzed-api")
    thread.start()
    assert begun.wait(30)
    yield found[0]
    loop.call_soon_threadsafe(ending.set)
    thread.join(30)
    loop.close()


@schema.parametrize()
@settings(
    max_examples=15, deadline=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
def test_no_input_is_a_fault(case: schemathesis.Case[Any], target: Target) -> None:
    """Half of the requests are for a task, a run and a workspace that are there, so that they get past the door."""
    for name, real in (("task_id", target.task), ("run_id", target.run), ("workspace_id", target.workspace)):
        if name in case.path_parameters and len(str(case.path_parameters[name])) % 2:
            case.path_parameters[name] = real
    case.query.pop("follow", None)  # it may wait for seconds, as it should
    callback = case.path.startswith("/v1/workspaces/{workspace_id}/") and not case.path.endswith("callback-token")
    headers = {"Authorization": target.token if callback else target.key}
    case.call_and_validate(base_url=target.url, headers=headers, checks=CHECKS)
