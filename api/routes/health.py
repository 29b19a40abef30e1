"""`/v1/health/report`: the level, its reasons, and the numbers."""

from fastapi import APIRouter
from starlette.responses import JSONResponse

from api.deps import Ctx, Reader
from domain.health import HealthReport
from domain.names import DEFAULT_PROJECT, Scope

router = APIRouter(prefix="/v1/health", tags=["health"])


@router.get("/report", response_model=HealthReport, summary="How it is: HEALTHY, WARNING or CRITICAL, and why")
async def report(ctx: Ctx, caller: Reader) -> JSONResponse:
    """Count the tasks of the key's project; for an admin of the project `default`, of all, with the system's numbers.

    The answer is 200 whatever the level, and the same for a few seconds.
    """
    operator = Scope.ADMIN in caller.scopes and caller.project == DEFAULT_PROJECT
    found = await ctx.health.report(None if operator else caller.project)
    return JSONResponse(found.model_dump(mode="json"))
