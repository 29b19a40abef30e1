"""Callbacks by the contract's table, one case a row; the workflow's part is written by the test."""

from sqlalchemy import select

from store.models import Callback
from tests.api.harness import Api


async def test_ready_then_finished_are_applied_and_kept(engine_api: Api) -> None:
    """200 `applied` each, one row of the inbox each, and the claim is carried by the first of them."""
    attempt = await engine_api.live()
    for kind in ("ready", "finished"):
        response = await attempt.tell(kind, {})
        assert (response.status_code, response.json()) == (200, {"result": "applied"})
    await engine_api.dispatcher.close()
    async with engine_api.database.begin() as connection:
        rows = await connection.execute(
            select(Callback.kind, Callback.delivered_at).where(Callback.workspace_id == attempt.workspace)
        )
        delivered = {row.kind: row.delivered_at is not None for row in rows}
    assert delivered == {"claimed": True, "ready": True, "finished": True}
