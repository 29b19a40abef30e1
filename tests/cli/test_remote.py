import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from cli.follow import Follower
from cli.remote import Remote, RemoteError
from cli.view import View

ANSWERS: dict[str, tuple[int, str]] = {
    "/v1/tasks/unknown": (404, json.dumps({"title": "Not found", "detail": "no such task", "code": "not_found"})),
    "/v1/runs/unknown": (404, json.dumps({"title": "Not found", "detail": "no such run", "code": "not_found"})),
    "/v1/keys/unknown": (404, json.dumps({"title": "Not found", "code": "not_found"})),
    "/v1/webhooks/unknown": (404, json.dumps({"title": "Not found", "code": "not_found"})),
    "/v1/tasks/wrong": (
        422,
        json.dumps(
            {
                "title": "Invalid",
                "detail": "the body is wrong",
                "code": "invalid",
                "errors": [{"field": "command", "reason": "empty"}],
            }
        ),
    ),
    "/v1/tasks/repeats": (
        422,
        json.dumps(
            {
                "title": "Invalid",
                "detail": "command: empty",
                "code": "invalid",
                "errors": [{"field": "command", "reason": "empty"}],
            }
        ),
    ),
    "/v1/tasks/away": (
        503,
        json.dumps({"title": "The database is away", "code": "database_unavailable", "retryable": True}),
    ),
    "/v1/tasks/broken": (500, json.dumps({"title": "A fault", "code": "internal", "request_id": "r-1"})),
    "/proxy": (502, "<html>bad gateway</html>"),
    "/page": (200, "<html>somebody else</html>"),
    "/list-answer": (500, "[]"),
    "/closed": (401, json.dumps({"detail": "no key", "code": "unauthorized"})),
}


@pytest.fixture(scope="module")
def remote() -> Iterator[Remote]:
    """Give a client of a server that answers from the table above."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Answer from the table, or with a page of two tasks."""
            path, _, query = self.path.partition("?")
            if path == "/v1/tasks":
                first = "cursor" not in query
                page = {
                    "items": [{"id": "1"}, {"id": "2"}] if first else [{"id": "3"}],
                    "next_cursor": "c" if first else None,
                }
                status, body = 200, json.dumps(page)
            else:
                status, body = ANSWERS[path]
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: Any) -> None:
            """Stay quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    with Remote(f"http://127.0.0.1:{server.server_port}", "key") as client:
        yield client
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("path", "code", "says"),
    [
        ("/v1/tasks/unknown", "not_found", "Not found (not_found)\n  no such task\n  `taskrunner tasks list` shows"),
        ("/v1/runs/unknown", "not_found", "Not found (not_found)\n  no such run\n  `taskrunner runs list` shows"),
        (
            "/v1/keys/unknown",
            "not_found",
            "Not found (not_found)\n  `taskrunner keys list` and `taskrunner nodes tokens",
        ),
        ("/v1/webhooks/unknown", "not_found", "Not found (not_found)\n  `taskrunner webhooks list` shows"),
        ("/v1/tasks/wrong", "invalid", "Invalid (invalid)\n  the body is wrong\n  command: empty"),
        ("/v1/tasks/repeats", "invalid", "Invalid (invalid)\n  command: empty"),
        ("/v1/tasks/away", "database_unavailable", "The database is away (database_unavailable)\n  Try again"),
        ("/v1/tasks/broken", "internal", "A fault (internal)\n  Report it with the request's id, r-1."),
        ("/proxy", "http_502", "Bad Gateway (http_502)"),
        ("/page", "no_api", "what answers at http://127.0.0.1"),
        ("/list-answer", "http_500", "Internal Server Error (http_500)"),
        ("/closed", "unauthorized", "no key (unauthorized)\n  Set TASKRUNNER_API_KEY"),
    ],
)
def test_a_problem_becomes_a_sentence(remote: Remote, path: str, code: str, says: str) -> None:
    """Detail, field and reason where the server gives them; the status where a proxy answered."""
    with pytest.raises(RemoteError) as caught:
        remote.get(path)
    assert caught.value.code == code
    assert str(caught.value).startswith(says)


@pytest.mark.parametrize(("limit", "ids"), [(1, ["1"]), (2, ["1", "2"]), (3, ["1", "2", "3"]), (50, ["1", "2", "3"])])
def test_a_list_is_read_page_by_page_up_to_the_limit(remote: Remote, limit: int, ids: list[str]) -> None:
    """The cursor is followed while items are wanted and no longer."""
    assert [item["id"] for item in remote.pages("/v1/tasks", limit=limit)] == ids


def test_nobody_waits_for_an_api_that_is_being_stopped() -> None:
    """The follower gives up at once: whoever stops the API has said so."""
    with Remote("http://127.0.0.1:1", "key") as remote:
        remote.stopping.set()
        with pytest.raises(RemoteError):
            Follower(remote, "0197f000-0000-7000-8000-000000000000", View()).run(patience=timedelta(seconds=30))
