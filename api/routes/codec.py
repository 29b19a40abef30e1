"""`/v1/codec/decode`: histories in plain, for an operator who looks at them with Temporal's CLI or UI."""

from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from api import bodies
from api.deps import Admin, Context, Ctx, context
from api.problems import Problem
from domain.names import DEFAULT_PROJECT

router = APIRouter(prefix="/v1/codec", tags=["codec"])

LONGEST: Final = 4_000_000  # bytes: what Temporal sends of a history at once
PAYLOADS: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"payloads": {"type": "array", "items": {"type": "object"}}},
}
CONTENT: Final = {"application/json": {"schema": PAYLOADS}}


async def cross_origin(request: Request, ctx: Annotated[Context, Depends(context)]) -> dict[str, str]:
    """Return what lets a page of the configured Temporal UI read the answer; nothing for any other page."""
    parts = urlsplit(ctx.settings.temporal_ui_url)
    allowed = f"{parts.scheme}://{parts.netloc}"
    headers = {"Vary": "Origin"}
    if request.headers.get("origin") == allowed:
        headers["Access-Control-Allow-Origin"] = allowed
    return headers


CrossOrigin = Annotated[dict[str, str], Depends(cross_origin)]


@router.options("/decode", status_code=204, include_in_schema=False)
async def preflight(headers: CrossOrigin) -> Response:
    """Tell a browser what a page of the Temporal UI may send."""
    if "Access-Control-Allow-Origin" in headers:
        headers["Access-Control-Allow-Methods"] = "POST"
        headers["Access-Control-Allow-Headers"] = "Authorization, Content-Type, X-Namespace"
    return Response(status_code=204, headers=headers)


@router.post(
    "/decode",
    response_class=Response,
    responses={200: {"content": CONTENT, "description": "The payloads in plain, in their order"}},
    openapi_extra={"requestBody": {"required": True, "content": CONTENT}},
    summary="Decrypt payloads of histories",
)
async def decode(ctx: Ctx, caller: Admin, request: Request, headers: CrossOrigin) -> Response:
    """Only for an admin of the project `default`: histories are not kept apart by project. It changes nothing."""
    if caller.project != DEFAULT_PROJECT:
        raise Problem("forbidden", f"only an admin of the project {DEFAULT_PROJECT} reads histories")
    raw = await bodies.read(request, LONGEST)
    if ctx.decode is None:
        raise Problem("not_found", "histories are not encrypted here")
    try:
        plain = await ctx.decode(raw)
    except ValueError as error:
        raise Problem("undecodable", str(error)) from None
    return Response(plain, media_type="application/json", headers=headers)
