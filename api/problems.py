"""Problems (RFC 9457): every error of the API as `application/problem+json`, with `code`, `retryable`, `request_id`.

Problem    raised by endpoints, by a name of the table below
others     the framework's own, the database's and ours at large, mapped to the same shape
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolExhausted
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from api.edge import request_id_of
from domain.plan import BadRun
from domain.reasons import reason_of

MEDIA_TYPE: Final = "application/problem+json"
_LONGEST_REASON: Final = 300
_LONGEST_PART: Final = 64
_MOST_ERRORS: Final = 20


@dataclass(frozen=True)
class Kind:
    """A kind of problem: its status, and whether the same request may succeed later."""

    status: int
    title: str
    retryable: bool = False
    retry_after: int | None = None


KINDS: Final[Mapping[str, Kind]] = {
    "malformed_json": Kind(400, "The body is not JSON"),
    "malformed_body": Kind(400, "The body is not complete"),
    "bad_cursor": Kind(400, "The cursor is not one of ours"),
    "unauthorized": Kind(401, "The key or token is not valid here"),
    "forbidden": Kind(403, "The key has not the scope that this needs"),
    "not_found": Kind(404, "There is no such thing"),
    "method_not_allowed": Kind(405, "This address has no such method"),
    "already_ended": Kind(409, "The task or run has ended"),
    "node_lost": Kind(409, "Nobody hears the node, or knows what is on it"),
    "node_elsewhere": Kind(409, "Another machine has joined as this node"),
    "webhook_disabled": Kind(409, "The webhook's receiver has gone: make a new one"),
    "webhooks_off": Kind(409, "No key is configured that signs webhooks (TASKRUNNER_WEBHOOK_KEYS)"),
    "not_ended": Kind(409, "The task or run has not ended"),
    "belongs_to_run": Kind(409, "The task belongs to a run"),
    "already_completed": Kind(409, "The task or run has completed: there is nothing to retry"),
    "attempt_mismatch": Kind(409, "The task or run is at another attempt than the request says"),
    "not_awaiting_followup": Kind(409, "The task does not wait for a message"),
    "not_paused": Kind(409, "The task or run is not paused"),
    "stale_token": Kind(409, "The task or run is not held by this token any more"),
    "nothing_to_resume": Kind(409, "No workspace was kept in which the next attempt could go on"),
    "already_failed": Kind(409, "This attempt has told its failure before"),
    "conflicting_callback": Kind(409, "The same callback came before with other content"),
    "idempotency_conflict": Kind(409, "The Idempotency-Key was used for another request"),
    "in_progress": Kind(409, "A request with this Idempotency-Key is in flight", retryable=True, retry_after=1),
    "log_gap": Kind(409, "The offset lies beyond the end of the log"),
    "too_many": Kind(409, "There are too many of these already"),
    "attempt_ended": Kind(410, "The attempt has ended: the workspace should stop"),
    "stale_attempt": Kind(410, "A later attempt has taken over: the workspace should stop"),
    "too_large": Kind(413, "The body is larger than its limit"),
    "result_too_large": Kind(413, "The result is larger than its limit"),
    "unsupported_media_type": Kind(415, "The body has another type than this takes"),
    "invalid": Kind(422, "A field is not valid"),
    "duplicate_member": Kind(422, "Two members have the same name"),
    "unknown_member": Kind(422, "No member has this name"),
    "self_loop": Kind(422, "A member cannot come after itself"),
    "duplicate_edge": Kind(422, "An edge is there twice"),
    "cycle": Kind(422, "Members wait for each other"),
    "unreachable_member": Kind(422, "No outcome can lead to a member"),
    "no_result": Kind(422, "A member has no result to fan out over"),
    "not_upstream": Kind(422, "A member is no direct upstream"),
    "not_waiting": Kind(422, "A member has begun or ended"),
    "not_superstep": Kind(422, "This is for runs of the mode superstep"),
    "unknown_attachment": Kind(422, "An attachment does not exist"),
    "undecodable": Kind(422, "A payload cannot be decrypted"),
    "too_fast": Kind(429, "This key or workspace asks too often", retryable=True, retry_after=1),
    "internal": Kind(500, "A fault of the server"),
    "engine_unavailable": Kind(503, "Temporal or its workers are away", retryable=True, retry_after=2),
    "database_unavailable": Kind(503, "The database is away", retryable=True, retry_after=2),
}
_CODE_OF_STATUS: Final = {400: "malformed_json", 404: "not_found", 405: "method_not_allowed", 413: "too_large"}


class FieldError(BaseModel):
    """What is wrong with one field."""

    field: str
    reason: str


class ProblemOut(BaseModel):
    """The body of every error."""

    model_config = ConfigDict(title="Problem", extra="allow")

    type: str
    title: str
    status: int
    code: str
    retryable: bool
    request_id: str
    detail: str | None = None
    errors: list[FieldError] | None = None


class Problem(HTTPException):
    """An error with one of the codes of KINDS; `more` are further members of the document."""

    def __init__(
        self, code: str, detail: str | None = None, *, errors: Sequence[tuple[str, str]] = (), **more: Any
    ) -> None:
        self.code = code
        self.kind = KINDS[code]
        self.errors = errors
        self.more = more
        super().__init__(status_code=self.kind.status, detail=detail or self.kind.title)


def invalid(field: str, reason: str) -> Problem:
    """Return the problem of one field."""
    return Problem("invalid", f"{field}: {reason}", errors=[(field, reason)])


def respond(request: Request, problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """Return the problem as the caller gets it."""
    kind = problem.kind
    content: dict[str, Any] = {
        "type": f"urn:taskrunner:problem:{problem.code}",
        "title": kind.title,
        "status": kind.status,
        "detail": problem.detail,
        "code": problem.code,
        "retryable": kind.retryable,
        "request_id": request_id_of(request.scope),
        **problem.more,
    }
    if problem.errors:
        content["errors"] = [{"field": field, "reason": reason} for field, reason in problem.errors]
    sent = dict(headers or {})
    if kind.retry_after is not None:
        sent["Retry-After"] = str(kind.retry_after)
    if kind.status == HTTPStatus.UNAUTHORIZED:
        sent["WWW-Authenticate"] = "Bearer"
    return JSONResponse(content, kind.status, headers=sent, media_type=MEDIA_TYPE)


def of_validation(errors: Iterable[Mapping[str, Any]]) -> Problem:
    """Return the problem of what pydantic found: field and reason, never the value."""
    found = [(_field(error["loc"]), reason_of(error)[:_LONGEST_REASON]) for error in errors]
    first = f"{found[0][0]}: {found[0][1]}" if found else "not valid"
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return Problem("invalid", first + more, errors=found[:_MOST_ERRORS])


def of_run(error: BadRun) -> Problem:
    """Return the problem of a body or a command that makes no run; a limit that it exceeds has no code of its own."""
    code = error.code if error.code in KINDS and error.code != "too_large" else "invalid"
    return Problem(code, str(error), errors=[(error.field, str(error))])


def _field(location: Sequence[Any]) -> str:
    parts = [str(part)[:_LONGEST_PART] for part in location]
    named = parts[1:] if parts and parts[0] in ("body", "query", "path", "header") else parts
    return ".".join(named) or "body"


def install(app: FastAPI) -> None:
    """Map every exception that an endpoint may let out."""

    async def own(request: Request, error: Exception) -> Response:
        if isinstance(error, Problem):
            return respond(request, error)
        status = error.status_code if isinstance(error, HTTPException) else HTTPStatus.INTERNAL_SERVER_ERROR
        headers = error.headers if isinstance(error, HTTPException) else None
        return respond(request, Problem(_CODE_OF_STATUS.get(status, "internal")), headers)

    async def validation(request: Request, error: Exception) -> Response:
        return respond(request, of_validation(error.errors() if isinstance(error, RequestValidationError) else ()))

    async def run(request: Request, error: Exception) -> Response:
        return respond(request, of_run(error) if isinstance(error, BadRun) else Problem("internal"))

    async def database(request: Request, _: Exception) -> Response:
        return respond(request, Problem("database_unavailable"))

    app.add_exception_handler(HTTPException, own)
    app.add_exception_handler(RequestValidationError, validation)
    app.add_exception_handler(BadRun, run)
    for kind in (OperationalError, InterfaceError, PoolExhausted):
        app.add_exception_handler(kind, database)
