"""Output over HTTP: by byte position, in both directions."""

import asyncio
from collections.abc import AsyncIterator

import httpx2
import pytest

from domain.policy import Limits
from tests.api.harness import Api, Attempt, serve, settings_for
from workflows.gateway import Gateway

OCTETS = {"Content-Type": "application/octet-stream"}


async def post(attempt: Attempt, offset: int, data: bytes) -> httpx2.Response:
    """Post output."""
    path = f"/v1/workspaces/{attempt.workspace}/logs?offset={offset}"
    return await attempt.api.client.post(path, content=data, headers=attempt.token | OCTETS)


async def read(of: Attempt, **params: int | str) -> httpx2.Response:
    """Read output."""
    return await of.api.client.get(f"/v1/tasks/{of.task}/logs", params=params)


async def test_output_is_kept_byte_by_byte(api: Api) -> None:
    """Bytes that are no text come back as they went in, from any offset."""
    attempt = await api.live()
    output = bytes(range(256)) * 3
    assert (await post(attempt, 0, output[:300])).json() == {"next_offset": 300, "truncated": False}
    assert (await post(attempt, 300, output[300:])).json() == {"next_offset": 768, "truncated": False}
    whole = await read(attempt)
    assert whole.content == output
    assert whole.headers["content-type"] == "text/plain; charset=utf-8"
    assert (whole.headers["x-next-offset"], whole.headers["x-truncated"]) == ("768", "false")
    assert (await read(attempt, offset=299)).content == output[299:]
    beyond = await read(attempt, offset=5000)
    assert (beyond.content, beyond.headers["x-next-offset"]) == (b"", "5000")


async def test_overlapping_and_parallel_posts_add_each_byte_once(api: Api) -> None:
    """Repeats and overlaps are trimmed, whatever their order; only a gap is refused."""
    attempt = await api.live()
    output = b"".join(b"%04d\n" % n for n in range(200))
    pieces = [(start, output[start : start + 150]) for start in range(0, len(output), 50)]
    for offset, data in pieces:
        await asyncio.gather(*(post(attempt, offset, data) for _ in range(3)))
    assert (await read(attempt)).content == output
    gap = await post(attempt, len(output) + 1, b"x")
    assert (gap.status_code, gap.json()["code"], gap.json()["next_offset"]) == (409, "log_gap", len(output))


@pytest.fixture(scope="module")
async def tight(database_url: str, nowhere: Gateway) -> AsyncIterator[Api]:
    """Give an API that keeps 100 bytes of output."""
    settings = settings_for(database_url).model_copy(update={"limits": Limits(log_per_attempt=100)})
    async for served in serve(database_url, nowhere, settings):
        yield served


async def test_output_beyond_the_bound_is_dropped_with_a_note(tight: Api) -> None:
    """The first bytes, then one note, then nothing; the workspace is told to go on and not to repeat."""
    attempt = await tight.live()
    assert (await post(attempt, 0, b"a" * 80)).json()["truncated"] is False
    assert (await post(attempt, 80, b"b" * 80)).json() == {"next_offset": 160, "truncated": True}
    assert (await post(attempt, 160, b"c" * 80)).json() == {"next_offset": 240, "truncated": True}
    found = await read(attempt)
    assert found.content.startswith(b"a" * 80 + b"b" * 20 + b"\n[output truncated")
    assert found.content.count(b"truncated") == 1
    assert found.headers["x-truncated"] == "true"


async def test_a_follower_is_given_output_as_it_comes(api: Api) -> None:
    """The request waits for bytes beyond its offset, and answers with them."""
    attempt = await api.live()
    waiting = asyncio.ensure_future(read(attempt, follow="true"))
    while not waiting.done():
        await post(attempt, 0, b"hello")
        await asyncio.wait([waiting], timeout=0.3)
    assert waiting.result().content == b"hello"
    assert waiting.result().headers["x-live"] == "true"


async def test_nobody_follows_an_attempt_that_is_over(api: Api) -> None:
    """It answers at once, says that no more will come, and refuses more."""
    attempt = await api.live()
    await post(attempt, 0, b"all")
    await attempt.end()
    found = await asyncio.wait_for(read(attempt, follow="true", offset=3), 5)
    assert (found.content, found.headers["x-live"]) == (b"", "false")
    late = await post(attempt, 3, b"more")
    assert (late.status_code, late.json()["code"]) == (410, "attempt_ended")


async def test_each_attempt_has_its_own_output(api: Api) -> None:
    """The current one by default; an attempt that never was is 404."""
    first = await api.live()
    await post(first, 0, b"one")
    second = await first.next()
    second.token = await api.claim(second.workspace)
    await post(second, 0, b"two")
    assert (await read(second)).content == b"two"
    assert (await read(second, attempt=1)).content == b"one"
    assert (await read(second, attempt=3)).status_code == 404
    stale = await post(first, 3, b"late")
    assert (stale.status_code, stale.json()["code"]) == (410, "stale_attempt")


async def test_a_long_output_comes_in_one_answer(api: Api) -> None:
    """Three megabytes through windows of one, exact to the byte."""
    attempt = await api.live()
    block = bytes(n % 251 for n in range(750_000))
    for n in range(4):
        await post(attempt, n * len(block), block)
    found = await read(attempt, offset=10)
    assert found.content == (block * 4)[10:]
