"""A stream as the commands read it, from a server that says on each connection what its script says."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from datetime import timedelta

import pytest

from cli.remote import Remote, RemoteError
from cli.stream import Stream

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nConnection: close\r\n\r\n"
OVER = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"


def frame(number: int, kind: str = "debug.trace", *, end: str = "\n") -> bytes:
    """Return an event as the API sends it."""
    data = json.dumps({"seq": number, "type": kind})
    return end.join((f"id: {number}", f"event: {kind}", f"data: {data}", "", "")).encode()


def answer(status: str, body: str, kind: str = "application/json") -> bytes:
    """Return a whole answer."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return (head + body).encode()


def chunked(*pieces: bytes, whole: bool = True) -> bytes:
    """Return a stream as HTTP/1.1 sends it, cut into these pieces, with its end or torn off before it."""
    head = OK.replace(b"Connection: close", b"Transfer-Encoding: chunked")
    return head + b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n" * whole


class Script:
    """What the server says, connection by connection, and what it was asked."""

    def __init__(self, *says: bytes) -> None:
        self.says = list(says)
        self.asked: list[str] = []


@contextmanager
def serving(script: Script) -> Iterator[Remote]:
    """Serve the script; give a client of it."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for said in script.says:
                connection, _ = server.accept()
                with connection:
                    request = b""
                    while b"\r\n\r\n" not in request:
                        request += connection.recv(4096)
                    script.asked.append(request.decode())
                    connection.sendall(said)

        thread = threading.Thread(target=serve)
        thread.start()
        with Remote(f"http://127.0.0.1:{server.getsockname()[1]}", "key") as remote:
            yield remote
        thread.join(10)
        assert not thread.is_alive()


def read(stream: Stream) -> list[int]:
    """Return the numbers that a stream gives until its end."""

    async def numbers() -> list[int]:
        async with asyncio.timeout(20), aclosing(stream.frames()) as frames:
            return [each.number async for each in frames]

    return asyncio.run(numbers())


@pytest.mark.parametrize(
    "said",
    [
        chunked(frame(1) + frame(2)),
        chunked(*(bytes([byte]) for byte in frame(1) + frame(2))),
        chunked(frame(1, end="\r\n"), frame(2, end="\r\n")),
        chunked(frame(1, end="\r"), frame(2, end="\r")),
        chunked(b": hello\n\n", frame(1), b": still here\n\nretry: 10\n\n", frame(2)),
        chunked(b"unknown: field\n", frame(1), frame(2), frame(3)[:-1]),
        OK + frame(1) + frame(2),
    ],
    ids=["together", "byte by byte", "CRLF", "CR", "comments and retry", "torn frame", "until closed"],
)
def test_frames_are_read_however_they_are_sent(said: bytes) -> None:
    """Events 1 and 2, each once; a frame that was torn off is not taken for one."""
    script = Script(said, OVER)
    with serving(script) as remote:
        assert read(Stream(remote, "/stream")) == [1, 2]
    assert "last-event-id: 0\r\n" in script.asked[0].lower()
    assert "authorization: bearer key\r\n" in script.asked[0].lower()


def test_a_broken_connection_is_opened_again_where_it_broke() -> None:
    """Torn off, refused for a while, and a server in trouble: 1 to 4, each once, each time after the last one."""
    script = Script(
        chunked(frame(1), frame(2), whole=False),
        answer("503 Service Unavailable", json.dumps({"detail": "no database", "code": "database_unavailable"})),
        answer("429 Too Many Requests", "{}"),
        chunked(frame(3)),
        chunked(frame(4)),
        OVER,
    )
    said: list[str | None] = []
    with serving(script) as remote:
        stream = Stream(remote, "/stream", away=lambda error: said.append(error.code if error else None))
        assert read(stream) == [1, 2, 3, 4]
    cursors = [line.split(": ")[1] for text in script.asked for line in text.lower().split("\r\n") if "last-ev" in line]
    assert cursors == ["0", "2", "2", "2", "3", "4"]
    assert said == ["unreachable", None]


def test_what_waiting_does_not_mend_is_raised() -> None:
    """A task that is not there, a cursor that is wrong: the problem's sentence, at once."""
    for status, code in (("404 Not Found", "not_found"), ("400 Bad Request", "bad_cursor")):
        script = Script(answer(status, json.dumps({"detail": "no", "code": code})))
        with serving(script) as remote, pytest.raises(RemoteError) as caught:
            read(Stream(remote, "/stream"))
        assert caught.value.code == code


def test_an_api_that_stays_away_is_not_waited_for_without_end() -> None:
    """After the limit the error says that nobody answers; at once, when whoever stops the API has said so."""
    with Remote("http://127.0.0.1:1", "key") as remote:
        with pytest.raises(RemoteError, match="no API answers"):
            read(Stream(remote, "/stream", away_limit=timedelta(seconds=0.3)))
        remote.stopping.set()
        with pytest.raises(RemoteError, match="no API answers"):
            read(Stream(remote, "/stream", away_limit=None))


def test_a_log_is_paged_where_streams_do_not_come_through() -> None:
    """A proxy that answers a stream with a page of its own: the log's pages bring the events, up to the task's end."""
    page = json.dumps({"items": [{"seq": 1, "type": "task.created"}, {"seq": 2, "type": "task.completed"}]})
    script = Script(answer("200 OK", "<html>", "text/html"), answer("200 OK", page))
    with serving(script) as remote:
        assert read(Stream(remote, "/stream", log="/events")) == [1, 2]
    assert "GET /events?fromSeq=1" in script.asked[1]


def test_the_pages_of_a_run_end_with_the_run_not_with_one_of_its_tasks() -> None:
    """They are read by the number that counts both; the end of a task is no end, though it comes last for now."""
    first = [{"seq": 1, "cursor": 1, "type": "run.created"}, {"seq": 9, "cursor": 2, "type": "task.completed"}]
    last = [{"seq": 2, "cursor": 3, "type": "run.completed"}]
    held_back = answer("200 OK", "<html>", "text/html")
    pages = [answer("200 OK", json.dumps({"items": items})) for items in (first, last)]
    script = Script(held_back, pages[0], held_back, pages[1])
    with serving(script) as remote:
        assert read(Stream(remote, "/stream", log="/events")) == [1, 2, 3]
    assert "GET /events?fromSeq=3" in script.asked[3]
