"""A line of the API's log has the ids by which it is found."""

import structlog
from structlog.testing import capture_logs

from tests.api.harness import Api


async def test_a_line_of_a_request_names_it(api: Api) -> None:
    """The request's id, and whose callback it is."""
    attempt = await api.live()
    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        path = f"/v1/workspaces/{attempt.workspace}/ready"
        await api.client.post(path, headers=attempt.token | {"X-Request-Id": "r-1"})
    line = next(line for line in lines if line["event"] == "api.request")
    assert (line["request_id"], line["task"], line["attempt"], line["workspace"]) == (
        "r-1",
        attempt.task,
        1,
        attempt.workspace,
    )
