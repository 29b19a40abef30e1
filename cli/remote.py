"""The API as the commands see it: where it is, with which key, and its problems as sentences."""

import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx2

from cli.data_dir import DataDir

AGAIN: Final = "Try again in a moment."
# What to do about a problem, by its code, where its own words do not say it.
REMEDIES: Final = {
    "unauthorized": "Set TASKRUNNER_API_KEY, or run this where the stack's data directory is (--data-dir).",
    "forbidden": "Use another key; `taskrunner keys create NAME --scope …` makes one, with an admin's key.",
    "not_found": "`taskrunner tasks list` shows the tasks that there are.",
    "already_completed": "Create the task again: `taskrunner start -- …`.",
    "not_ended": "`taskrunner tasks explain TASK` says what it waits for.",
    "stale_token": "`taskrunner tasks show TASK` says what holds it now.",
    "belongs_to_run": "`taskrunner runs retry RUN` and `runs delete RUN` do it for all of its tasks.",
    "node_lost": "`taskrunner nodes drain NODE --gone`, if its machine does not come back.",
    "internal": "Report it with the request's id, {request_id}.",
}
RUN_REMEDIES: Final = {
    "not_found": "`taskrunner runs list` shows the runs that there are.",
    "already_completed": "Create the run again: `taskrunner runs create FILE`.",
    "not_ended": "`taskrunner runs show RUN` says how far it is.",
    "stale_token": "`taskrunner runs show RUN` says what holds it now.",
}
NODE_REMEDIES: Final = {"not_found": "`taskrunner nodes list` shows the nodes that there are."}
KEY_REMEDIES: Final = {"not_found": "`taskrunner keys list` and `taskrunner nodes tokens list` show those there are."}
WEBHOOK_REMEDIES: Final = {"not_found": "`taskrunner webhooks list` shows the webhooks that there are."}
REMEDIES_BELOW: Final = {
    "/v1/runs": RUN_REMEDIES,
    "/v1/nodes": NODE_REMEDIES,
    "/v1/keys": KEY_REMEDIES,
    "/v1/webhooks": WEBHOOK_REMEDIES,
}
KEY: Final = re.compile(r"[!-~]+")  # what a header takes
DEFAULT_URL = "http://127.0.0.1:8080"
TIMEOUT = httpx2.Timeout(30, connect=5)


class RemoteError(RuntimeError):
    """A call that failed, as a sentence for a person; `code` is the problem's, or `unreachable`.

    `fields` are those of the body that are wrong, each with the reason.
    """

    def __init__(
        self, message: str, *, code: str, status: int | None = None, fields: Sequence[tuple[str, str]] = ()
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.fields = fields

    @property
    def first_line(self) -> str:
        """What is the matter, without details and remedy."""
        return str(self).partition("\n")[0]

    @property
    def transient(self) -> bool:
        """Whether the same call may succeed a little later: nobody answered, the server's side failed, or too fast."""
        later = (httpx2.codes.TOO_MANY_REQUESTS, httpx2.codes.REQUEST_TIMEOUT)
        return self.status is None or self.status in later or self.status >= httpx2.codes.INTERNAL_SERVER_ERROR


class Remote:
    """A client of the API. Every method raises RemoteError."""

    def __init__(self, url: str, key: str | None, *, timeout: httpx2.Timeout = TIMEOUT) -> None:
        if key and not KEY.fullmatch(key):
            raise RemoteError(
                "TASKRUNNER_API_KEY is no API key: `taskrunner keys create` makes one", code="no_key", status=401
            )
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.url = url.rstrip("/")
        self.stopping = threading.Event()  # set by whoever stops the API: its absence is no longer waited for
        self._client = httpx2.Client(base_url=self.url, headers=self._headers, timeout=timeout, trust_env=False)

    def asynchronous(self) -> httpx2.AsyncClient:
        """Return another client of the same API, for asyncio; the caller closes it and knows its problems."""
        return httpx2.AsyncClient(base_url=self.url, headers=self._headers, timeout=TIMEOUT, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def get(self, path: str, **params: Any) -> Any:
        """Return the JSON of a GET; parameters that are None are left out."""
        return self._told(self._call("GET", path, params=_given(params)))

    def text(self, path: str, **params: Any) -> httpx2.Response:
        """Return the response of a GET whose body is not JSON."""
        return self._call("GET", path, params=_given(params))

    def post(self, path: str, body: Any = None, *, headers: Mapping[str, str] | None = None) -> Any:
        """Return the JSON of a POST, or None for an empty answer."""
        response = self._call("POST", path, json=body, headers=headers)
        return self._told(response) if response.content else None

    def put(self, path: str, body: Any) -> Any:
        """Return the JSON of a PUT."""
        return self._told(self._call("PUT", path, json=body))

    def delete(self, path: str) -> None:
        """Send a DELETE."""
        self._call("DELETE", path)

    def pages(self, path: str, *, limit: int, **params: Any) -> Iterator[dict[str, Any]]:
        """Yield at most `limit` items of a list, page by page."""
        cursor: str | None = None
        while limit > 0:
            page = self.get(path, cursor=cursor, limit=min(limit, 100), **params)
            yield from page["items"][:limit]
            limit -= len(page["items"])
            cursor = page.get("next_cursor")
            if not cursor:
                return

    def _call(self, method: str, path: str, **options: Any) -> httpx2.Response:
        try:
            response = self._client.request(method, path, **options)
        except httpx2.TransportError as error:
            raise self.unreachable(error) from error
        if response.is_success:
            return response
        raise problem(response)

    def _told(self, response: httpx2.Response) -> Any:
        try:
            return response.json()
        except ValueError:
            raise RemoteError(
                f"what answers at {self.url} is no Taskrunner API: set TASKRUNNER_URL to the address of one",
                code="no_api",
                status=response.status_code,
            ) from None

    def unreachable(self, error: httpx2.TransportError) -> RemoteError:
        """Return what says that nobody answers, and what to do about it."""
        return RemoteError(
            f"no API answers at {self.url} ({str(error) or type(error).__name__}): "
            "start one with `taskrunner up`, or set TASKRUNNER_URL",
            code="unreachable",
        )


def connect(data_dir: Path, *, timeout: httpx2.Timeout = TIMEOUT) -> Remote:
    """Return the client for TASKRUNNER_URL, else for the stack of the data directory, else for the default address."""
    data = DataDir(data_dir)
    url = os.environ.get("TASKRUNNER_URL") or data.address().get("api") or DEFAULT_URL
    return Remote(url, os.environ.get("TASKRUNNER_API_KEY") or data.secret("admin"), timeout=timeout)


def _given(params: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in params.items() if value is not None}


def problem(response: httpx2.Response) -> RemoteError:
    """Turn an answer of RFC 9457 (or of a proxy that knows nothing of it) into sentences: title, detail, what to do."""
    try:
        told = response.json()
    except ValueError:
        told = {}
    if not isinstance(told, dict):
        told = {}
    code = str(told.get("code") or f"http_{response.status_code}")
    fields = [
        (
            str(error.get("field") or ".".join(str(part) for part in error.get("loc", ()))),
            str(error.get("reason") or error.get("msg") or error.get("message")),
        )
        for error in told.get("errors") or []
    ]
    title = told.get("title") or told.get("detail") or response.reason_phrase
    # A detail that only repeats what stands beside it is left out.
    details = [each for each in (told.get("detail"), *map(": ".join, fields)) if each and each not in (title, code)]
    path = response.request.url.path
    own = next((more for prefix, more in REMEDIES_BELOW.items() if path.startswith(prefix)), {})
    remedies = REMEDIES | own
    remedy = remedies.get(code, AGAIN if told.get("retryable") else "").format(**{"request_id": "?", **told})
    lines = [f"{title} ({code})", *dict.fromkeys(details), *([remedy] if remedy else [])]
    return RemoteError("\n  ".join(lines), code=code, status=response.status_code, fields=fields)
