"""JSON bodies: read with a bound, parsed strictly, validated in one pass, and described for the OpenAPI document."""

import asyncio
import hashlib
import re
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from api.problems import Problem, invalid, of_validation
from settings import Settings

Model = TypeVar("Model", bound=BaseModel)

# Numbers that a double does not hold come out as infinity, which is not JSON; NUL is not text in PostgreSQL.
_SUSPECT: Final = re.compile(rb"\\u0000|[eE]\+?[0-9]{3}|[0-9]{300}|NaN|Infinity")
_DIGITS: Final = re.compile(r"[0-9]{1,18}")
# What takes longer to validate than other requests should wait: about 20 ms.
_LARGE: Final = 64 * 1024
_JSON: Final = re.compile(r"application/(json|[a-z0-9.+-]+\+json)\s*(;.*)?", re.IGNORECASE)


@dataclass(frozen=True)
class Body(Generic[Model]):
    """A validated body, and the digest of its bytes for the Idempotency-Key."""

    value: Model
    digest: bytes


def declares_more(request: Request, limit: int) -> bool:
    """Return whether the Content-Length alone says that the body is larger than `limit` bytes."""
    declared = request.headers.get("content-length", "")
    return _DIGITS.fullmatch(declared) is not None and int(declared) > limit


async def read(request: Request, limit: int) -> bytes:
    """Return the body; raises Problem as soon as it is larger than `limit` bytes."""
    if declares_more(request, limit):
        raise Problem("too_large", f"the body is larger than {limit} bytes")
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise Problem("too_large", f"the body is larger than {limit} bytes")
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def json_of(model: type[Model], *, required: bool = True) -> Callable[[Request], Coroutine[Any, Any, Body[Model]]]:
    """Return the dependency that gives a `Body[model]`; without `required` no body at all is the default one."""

    async def parse(request: Request) -> Body[Model]:
        settings: Settings = request.app.state.context.settings
        raw = await read(request, settings.limits.body)
        digest = hashlib.sha256(b"%s %s\n" % (request.method.encode(), request.url.path.encode()) + raw).digest()
        if not raw and not required:
            return Body(model(), digest)
        kind = request.headers.get("content-type", "application/json")
        if not _JSON.fullmatch(kind):
            raise Problem("unsupported_media_type", "send JSON with Content-Type: application/json")
        value = await asyncio.to_thread(_parsed, model, raw) if len(raw) > _LARGE else _parsed(model, raw)
        return Body(value, digest)

    return parse


def _parsed(model: type[Model], raw: bytes) -> Model:
    if _SUSPECT.search(raw):
        _check_values(raw)  # names the place within a JSON value, which the model cannot
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        raise _problem(error) from None


def describe(model: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """Return what a route that takes this body adds to the OpenAPI document."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}}


def _problem(error: ValidationError) -> Problem:
    found = error.errors(include_url=False, include_input=False, include_context=False)
    if found[0]["type"] == "json_invalid":
        return Problem("malformed_json", found[0]["msg"][:200])
    return of_validation(found)


def _check_values(raw: bytes) -> None:
    """Refuse NUL characters and numbers that JSON or a double does not have, wherever they are."""
    try:
        waiting: list[tuple[str, Any]] = [("", from_json(raw, allow_inf_nan=False))]
    except ValueError as error:
        raise Problem("malformed_json", str(error)[:200]) from None
    while waiting:
        field, item = waiting.pop()
        if isinstance(item, dict):
            waiting.extend((f"{field}.{key[:64]}", part) for key, part in item.items())
            waiting.extend((field, key) for key in item)
        elif isinstance(item, list):
            waiting.extend((f"{field}.{place}", part) for place, part in enumerate(item))
        elif isinstance(item, str) and "\x00" in item:
            raise invalid(_name(field), "must not contain a NUL character")
        elif isinstance(item, float) and item in (float("inf"), float("-inf")):
            raise invalid(_name(field), "must be a number that a double can hold")


def _name(field: str) -> str:
    return field.lstrip(".").replace("\x00", "\\0")[:200] or "body"
