"""Sessions: what a browser has in the place of a key."""

from datetime import timedelta

from sqlalchemy import text

from api.deps import SESSION_COOKIE
from domain.names import Scope
from tests.api.harness import Api


async def begin(api: Api, headers: dict[str, str]) -> tuple[str, str]:
    """Begin a session; give the whole cookie header, and its value."""
    response = await api.client.post("/v1/sessions", headers=headers)
    assert response.status_code == 201, response.text
    cookie = response.headers["set-cookie"]
    api.client.cookies.clear()  # only what a test sends itself
    return cookie, cookie.split("=", 1)[1].split(";")[0]


def as_browser(session: str) -> dict[str, str]:
    """Give what a browser sends: no key, a cookie."""
    return {"Cookie": f"{SESSION_COOKIE}={session}"}


async def ask(api: Api, path: str, session: str, method: str = "GET") -> int:
    """Give the status of a request without a key."""
    request = api.client.build_request(method, path, headers=as_browser(session))
    request.headers.pop("authorization", None)
    return (await api.client.send(request)).status_code


async def test_a_session_reads_what_its_key_may_read(api: Api) -> None:
    """200 by cookie alone for the project's tasks; the cookie is HttpOnly, SameSite=Strict, and lasts an hour."""
    cookie, session = await begin(api, await api.key(Scope.TASKS_READ))
    assert await ask(api, "/v1/tasks", session) == 200
    for part in ("HttpOnly", "SameSite=strict", "Max-Age=3600", "Path=/"):
        assert part in cookie


async def test_a_session_has_no_more_scopes_than_its_key(api: Api) -> None:
    """403 for what the key could not do."""
    _, session = await begin(api, await api.key(Scope.TASKS_READ))
    assert await ask(api, "/v1/keys", session) == 403


async def test_a_session_changes_nothing(api: Api) -> None:
    """401 for every POST and DELETE by cookie: there is nothing that another site could have a browser do."""
    task = await api.create(start=False)
    _, session = await begin(api, await api.key())
    for method, path in (
        ("POST", "/v1/tasks"),
        ("POST", f"/v1/tasks/{task['id']}/cancel"),
        ("POST", f"/v1/tasks/{task['id']}/start"),
        ("POST", "/v1/sessions"),
    ):
        assert await ask(api, path, session, method) == 401, path


async def test_a_session_is_no_key_and_a_key_is_no_session(api: Api) -> None:
    """401 for either in the place of the other, and for what is neither."""
    headers = await api.key()
    _, session = await begin(api, headers)
    response = await api.client.get("/v1/tasks", headers={"Authorization": f"Bearer {session}"})
    assert response.status_code == 401
    key = headers["Authorization"].removeprefix("Bearer ")
    for text_ in (key, "", "trs_", session[:-1], session + "x", "trs_" + "A" * 43):
        assert await ask(api, "/v1/tasks", text_) == 401


async def test_a_wrong_key_is_not_made_good_by_a_session(api: Api) -> None:
    """401: the header is what the caller means."""
    _, session = await begin(api, await api.key())
    headers = as_browser(session) | {"Authorization": "Bearer nonsense"}
    assert (await api.client.get("/v1/tasks", headers=headers)).status_code == 401


async def test_an_ended_session_is_over_at_once(api: Api) -> None:
    """401 after DELETE; a second DELETE, and one without a cookie, are 204 too."""
    _, session = await begin(api, await api.key())
    assert await ask(api, "/v1/tasks", session) == 200
    assert await ask(api, "/v1/sessions", session, "DELETE") == 204
    assert await ask(api, "/v1/tasks", session) == 401
    assert await ask(api, "/v1/sessions", session, "DELETE") == 204


async def test_a_session_ends_with_its_time(api: Api) -> None:
    """401 once it has expired; the next one that begins takes its row away."""
    _, session = await begin(api, await api.key())
    async with api.database.begin("test") as connection:
        await connection.execute(text("UPDATE sessions SET expires_at = now() - interval '1 s'"))
    assert await ask(api, "/v1/tasks", session) == 401
    await begin(api, await api.key())
    async with api.database.read() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM sessions"))).scalar_one() == 1


async def test_a_session_ends_with_its_key(api: Api) -> None:
    """401 after the key was revoked, when the few seconds for which it is remembered have passed."""
    headers = await api.key(Scope.ADMIN)
    _, session = await begin(api, headers)
    shown = (await api.client.get("/v1/keys", headers=headers)).json()["items"]
    assert (await api.client.delete(f"/v1/keys/{shown[0]['id']}", headers=headers)).status_code == 204
    assert await ask(api, "/v1/tasks", session) == 401


async def test_over_https_the_cookie_is_sent_over_https_only(api: Api) -> None:
    """`Secure`, when the API's address says so."""
    context = api.app.state.context
    plain = context.settings
    context.settings = plain.model_copy(update={"url": "https://tasks.example", "session": timedelta(minutes=5)})
    try:
        cookie, _ = await begin(api, await api.key())
    finally:
        context.settings = plain
    assert "Secure" in cookie
    assert "Max-Age=300" in cookie


async def test_a_repeated_begin_gives_the_same_session(api: Api) -> None:
    """The same cookie and the same answer for the same key and Idempotency-Key; the text is stored nowhere."""
    headers = await api.key(Scope.TASKS_READ) | {"Idempotency-Key": "once"}
    cookies = []
    for _ in range(2):
        response = await api.client.post("/v1/sessions", headers=headers)
        api.client.cookies.clear()
        cookies.append((response.headers["set-cookie"], response.json()))
    assert cookies[0] == cookies[1]
    assert set(cookies[0][1]) == {"expires_at"}
    session = cookies[0][0].split("=", 1)[1].split(";")[0]
    assert await ask(api, "/v1/tasks", session) == 200
    async with api.database.read() as connection:
        kept = (
            await connection.execute(text("SELECT response::text FROM idempotency WHERE key = 'once'"))
        ).scalar_one()
    assert session not in kept
