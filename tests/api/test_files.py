"""Attachments and artifacts: streamed in, streamed out."""

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import func, select

from domain.policy import Limits
from store.models import Blob
from tests.api.harness import Api, serve, settings_for
from workflows.gateway import Gateway

LIMIT = 3_000_000
CONTENT = bytes(n % 253 for n in range(2_500_000))


@pytest.fixture(scope="module")
async def files(database_url: str, nowhere: Gateway) -> AsyncIterator[Api]:
    """Give an API with small limits for files."""
    limits = Limits(attachment=LIMIT, artifact=LIMIT)
    settings = settings_for(database_url).model_copy(update={"limits": limits})
    async for served in serve(database_url, nowhere, settings):
        yield served


async def upload(api: Api, name: str = "data.bin", content: bytes = CONTENT) -> dict[str, Any]:
    """Upload an attachment."""
    response = await api.client.post("/v1/attachments", params={"name": name}, content=content)
    assert response.status_code == 201, response.text
    return dict(response.json())


async def test_an_attachment_reaches_the_workspace_whose_task_names_it(files: Api) -> None:
    """The bytes are the same; another task's workspace does not get them, nor does another token."""
    made = await upload(files, 'résumé of "x".bin')
    assert (made["size"], made["sha256"]) == (len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    attempt = await files.live(attachments=[made["id"]])
    other = await files.live()
    path = f"/v1/workspaces/{attempt.workspace}/attachments/{made['id']}"
    found = await files.client.get(path, headers=attempt.token)
    assert found.content == CONTENT
    assert found.headers["content-disposition"].startswith("attachment; filename*=UTF-8''r%C3%A9sum%C3%A9")
    assert (await files.client.get(path, headers=other.token)).status_code == 401
    elsewhere = path.replace(attempt.workspace, other.workspace)
    assert (await files.client.get(elsewhere, headers=other.token)).status_code == 404
    await attempt.end()
    assert (await files.client.get(path, headers=attempt.token)).status_code == 410


async def test_another_projects_attachment_does_not_exist(files: Api) -> None:
    """A task that names it is 422."""
    response = await files.client.post(
        "/v1/attachments", params={"name": "x"}, content=b"1", headers=await files.key(project="other")
    )
    body = {"command": ["true"], "provider": "external", "attachments": [response.json()["id"]]}
    answer = await files.client.post("/v1/tasks", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "unknown_attachment")


@pytest.mark.parametrize("told", [True, False], ids=["with a length", "without"])
async def test_a_file_over_its_limit_is_refused_while_it_comes(files: Api, told: bool) -> None:  # noqa: FBT001
    """413, and no bytes of it stay."""
    sent = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 50_000_000:
            sent += 500_000
            yield b"x" * 500_000

    before = await blobs(files)
    headers = {"Content-Length": "50000000"} if told else {}
    response = await files.client.post("/v1/attachments?name=x", content=pieces(), headers=headers)
    assert (response.status_code, response.json()["code"]) == (413, "too_large")
    assert sent <= LIMIT + 1_000_000
    assert await blobs(files) == before


@pytest.mark.parametrize("name", ["", "a/b", "..", "a\\b", "x" * 256, "a\nb", "a%00b"])
async def test_an_attachments_name_is_a_file_name(files: Api, name: str) -> None:
    """4xx with the field."""
    response = await files.client.post("/v1/attachments", params={"name": name}, content=b"1")
    if name == "a%00b":  # percent-encoded by the client: an odd name, and no NUL
        assert response.status_code == 201
    else:
        assert (response.status_code, response.json()["errors"][0]["field"]) == (422, "name")


async def test_a_form_is_told_how_to_upload(files: Api) -> None:
    """415 instead of a file that holds the form's boundaries."""
    response = await files.client.post("/v1/attachments?name=x", files={"file": b"1"})
    assert response.status_code == 415


async def test_an_artifact_is_listed_and_downloaded_as_it_was_left(files: Api) -> None:
    """Same bytes, for saving and never for showing; the same name again replaces it and its bytes."""
    attempt = await files.live()
    path = f"/v1/workspaces/{attempt.workspace}/artifacts"
    html = attempt.token | {"Content-Type": "text/html; charset=utf-8"}
    before = await blobs(files)
    for content in (b"old", CONTENT):
        left = await files.client.put(f"{path}/out/./report%20ü.html", content=content, headers=html)
        assert left.status_code == 200, left.text
    await files.client.put(f"{path}/empty", content=b"", headers=attempt.token)
    assert await blobs(files) == before + 2
    listed = (await files.client.get(f"/v1/tasks/{attempt.task}/artifacts")).json()
    assert [(item["name"], item["size"]) for item in listed["items"]] == [
        ("empty", 0),
        ("out/report ü.html", len(CONTENT)),
    ]
    found = await files.client.get(listed["items"][1]["href"])
    assert found.content == CONTENT
    assert found.headers["content-type"].startswith("text/html")
    assert found.headers["content-disposition"].startswith("attachment;")
    assert found.headers["x-content-type-options"] == "nosniff"
    assert (await files.client.get(listed["items"][0]["href"])).content == b""
    assert (await files.client.get(f"/v1/tasks/{attempt.task}/artifacts/none")).status_code == 404


@pytest.mark.parametrize(
    "name", ["..%2Fx", "a/..%2F..%2Fx", "%2Fetc%2Fpasswd", "a%5Cb", "a%09b", "x" * 300, "a/" * 600 + "x", "%2E"]
)
async def test_an_artifacts_name_stays_below_its_folder(files: Api, name: str) -> None:
    """422: it cannot lead out of it."""
    attempt = await files.live()
    response = await files.client.put(
        f"/v1/workspaces/{attempt.workspace}/artifacts/{name}", content=b"1", headers=attempt.token
    )
    assert response.status_code == 422, response.text


async def test_attempts_keep_their_own_artifacts(files: Api) -> None:
    """The current attempt's by default; an earlier attempt may leave nothing more."""
    first = await files.live()
    put = f"/v1/workspaces/{first.workspace}/artifacts/a"
    await files.client.put(put, content=b"1", headers=first.token)
    second = await first.next()
    stale = await files.client.put(put, content=b"2", headers=first.token)
    assert (stale.status_code, stale.json()["code"]) == (410, "stale_attempt")
    path = f"/v1/tasks/{first.task}/artifacts"
    assert (await files.client.get(path)).json()["items"] == []
    assert (await files.client.get(f"{path}/a", params={"attempt": 1})).content == b"1"
    await second.end()
    second.token = first.token
    assert (await files.client.put(put, content=b"2", headers=first.token)).status_code == 410


async def blobs(api: Api) -> int:
    """Give the number of blobs."""
    async with api.database.begin("test") as connection:
        return int((await connection.execute(select(func.count()).select_from(Blob))).scalar_one())
