"""Hostile text in every place that takes text: no fault, nothing changed, and what is kept comes back as it came."""

import ast
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import structlog
from sqlalchemy import text

from api.app import assemble
from cli import journal, screen
from domain.names import Scope
from store.models import Base
from tests.api.harness import Api

ROOT = Path(__file__).parents[2]
HOSTILE = {
    "quote": "'",
    "statement": "'; DROP TABLE tasks; --",
    "union": "' UNION SELECT id, project, name, sha256 FROM api_keys --",
    "always true": "' OR '1'='1",
    "comment": "/*", "dollar": "$$; SELECT pg_sleep(9); $$", "backslash": "\\'; --",
    "percent": "%s %(id)s %%", "bind": ":project", "wildcards": "%_%", "jsonpath": '$.** ? (@ == "x")',
    "array": "{a,b}", "cast": "1::int", "copy": "x); COPY tasks TO PROGRAM 'id'; --",
    "visibility": "ProjectId != 'x' OR ExecutionStatus = 'Running'",
    "crlf": "x\r\nSet-Cookie: a=b\r\n\r\n<script>", "newline": "a\nb", "escape": "\x1b[31m\x1b]0;title\x07",
    "template": "{{7*7}} ${7*7} #{7*7} {0.__class__}", "path": "../../../etc/passwd", "absolute": "/etc/passwd",
    "windows": "..\\..\\x", "script": "<script>alert(1)</script>", "format": "%n%s%x", "command": "$(id) `id`; id | id",
    "override": "\u202etxt.exe", "zero width": "a\u200bb", "combining": "a" + "\u0301" * 50, "emoji": "\U0001f480",
    "nonascii digits": "\u0661\u0662", "dots": "...", "space": " ", "number": "1e999", "negative": "-1",
    "large": str(2**64), "long": "x" * 5_000, "nan": "NaN", "null": "null", "brackets": "[" * 500,
}  # fmt: skip
# An upload takes any body; a feed is numbered when somebody reads it.
CHANGED = ("attachments", "blob", "fed", "feed")
UNTOUCHED = [table for table in Base.metadata.tables if not table.startswith(CHANGED)]


def targets() -> Iterator[tuple[str, str, str, str]]:
    """Give method, path, name and place of every parameter in the application's document."""
    for path, operations in assemble().openapi()["paths"].items():
        for method, operation in operations.items():
            for parameter in operation.get("parameters", []):
                yield method.upper(), path, parameter["name"], parameter["in"]


async def fingerprint(api: Api) -> dict[str, str]:
    """Give what stands in each table, as one digest."""
    async with api.database.begin("test.fingerprint") as connection:
        found = {}
        for table in UNTOUCHED:
            rows = f"SELECT t::text AS row FROM {table} t"  # noqa: S608 - our own models' names
            query = text(f"SELECT md5(coalesce(string_agg(row, '|' ORDER BY row), '')) FROM ({rows}) r")  # noqa: S608
            found[table] = str((await connection.execute(query)).scalar_one())
        return found


@pytest.fixture(scope="module")
async def ids(api: Api) -> dict[str, str]:
    """Give one of each thing, quiet: nothing writes on its own."""
    attempt = await api.live(name="the only one")
    await attempt.end()
    await api.client.post("/v1/nodes", json={"id": "quiet", "slots": 0})
    await api.dispatcher.close()
    return {"task_id": attempt.task, "workspace_id": attempt.workspace, **attempt.token}


@pytest.mark.parametrize("target", list(targets()), ids=" ".join)
async def test_no_parameter_is_read_as_anything_else(
    api: Api, ids: dict[str, str], target: tuple[str, str, str, str]
) -> None:
    """No fault for any text, a fault's place in no answer, and every table as it was."""
    method, path, name, place = target
    callback = path.startswith("/v1/workspaces/{workspace_id}/") and not path.endswith("callback-token")
    headers = {"Authorization": ids["Authorization"]} if callback else await api.key(*Scope)
    before = await fingerprint(api)
    for label, hostile in HOSTILE.items():
        filled = {part: ids.get(part, "none") for part in re.findall(r"{(\w+)}", path)}
        sent: list[tuple[bytes, bytes]] = [(key.encode(), value.encode()) for key, value in headers.items()]
        query: dict[str, Any] = {}
        if place == "path":
            filled[name] = quote(hostile, safe="")
        elif place == "query":
            query[name] = hostile
        elif re.search("[\r\n]", hostile):
            continue  # no server gets a header with one
        else:
            sent.append((name.encode(), hostile.encode()))
        # A body that no route takes, so that nothing is made; an upload takes any, and is not looked at.
        answer = await api.client.request(
            method, path.format(**filled), params=query, headers=sent, content=b"-" if method != "GET" else None
        )
        assert answer.status_code < 500, (label, answer.text)
        assert not re.search("psycopg|sqlalchemy|Traceback|syntax error", answer.text, re.IGNORECASE), (
            label,
            answer.text,
        )
        assert "set-cookie" not in answer.headers
        assert not [value for value in answer.headers.values() if "\r" in value or "\n" in value]
    assert await fingerprint(api) == before


@pytest.mark.parametrize("label", HOSTILE)
async def test_what_is_kept_comes_back_as_it_came(api: Api, label: str) -> None:
    """A task whose every free text is hostile: refused for a reason, or shown and found as it was sent."""
    hostile = HOSTILE[label]
    body: dict[str, Any] = {
        "name": hostile[:200],
        "command": ["echo", hostile],
        "provider": "external",
        "env": {"X": hostile},
        "input": {hostile: [hostile]},
        "labels": {"of": hostile[:250]},
        "artifacts": [],
        "setup": [["true", hostile]],
    }
    answer = await api.client.post("/v1/tasks", json=body)
    if not hostile.strip():
        assert answer.status_code == 422
        return
    assert answer.status_code == 201, answer.text
    shown = (await api.client.get(f"/v1/tasks/{answer.json()['id']}")).json()
    assert shown["name"] == body["name"].strip()
    assert {name: shown["spec"][name] for name in ("command", "env", "input", "setup")} == {
        name: body[name] for name in ("command", "env", "input", "setup")
    }
    assert shown["labels"] == body["labels"]
    for params in ({"q": shown["name"]}, {"label": f"of:{body['labels']['of']}"}):
        found = (await api.client.get("/v1/tasks", params=params)).json()["items"]
        assert shown["id"] in [item["id"] for item in found]
        assert all(shown["name"].casefold() in item["name"].casefold() for item in found)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"command": ["true"], "provider": "external", "input": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"command": ["true"], "provider": "external", "input": ' + b'{"a":' * 65 + b"1" + b"}" * 66,
        b'{"command": ["true"], "provider": "external", "input": ' + b"9" * 900_000 + b"}",
        b'{"command": ["true"], "provider": "external", "input": 1e400}',
        b'{"command": ["true"], "provider": "external", "name": "\\u0000"}',
        b'{"command": ["true"], "provider": "external", "name": "\\ud800"}',
        b'{"command": ["true"], "provider": "external", "name": "\xff"}',
        b'{"command": ["true"], "provider": "external", "__proto__": {}, "constructor": {}}',
        b'{"command": ["true"], "provider": "external", "env": {"LD_PRELOAD=x\\u0000": "y"}}',
        b'{"command": ["true"], "provider": "external", "env": {"TASKRUNNER_TOKEN_FILE": "/etc/passwd"}}',
        b'{"command": ["true"], "provider": "external", "repo": {"url": "ext::sh -c id"}}',
        b'{"command": ["true"], "provider": "external", "repo": {"url": "https://x/y", "ref": "--upload-pack=id"}}',
        b'{"command": ["true"], "provider": "external", "repo": {"url": "ssh://-oProxyCommand=id/x"}}',
        b'{"command": ["true"], "provider": "external", "artifacts": ["../../etc/*", "/etc/passwd"]}',
    ],
    ids=[
        *("depth", "a level too deep", "digits", "infinity", "NUL", "surrogate", "no UTF-8", "prototype"),
        *("NUL in a name", "reserved", "transport helper", "option as ref", "option as host", "upward glob"),
    ],
)
async def test_a_body_that_would_do_harm_later_is_refused_at_the_door(api: Api, raw: bytes) -> None:
    """400 or 422, at once, and never with the value in the answer."""
    answer = await api.client.post("/v1/tasks", content=raw)
    assert answer.status_code in (400, 422), answer.text
    assert len(answer.content) < 3_000


@pytest.mark.parametrize(
    "media_type", ["text/html\r\nX-Injected: 1", 'text/html; charset="\r\n', "a/b\x00", "é/ü", "x" * 500]
)
async def test_a_media_type_is_one_or_none(api: Api, media_type: str) -> None:
    """What a workspace names its file's type is checked before any browser hears of it."""
    attempt = await api.live()
    header = [(b"Content-Type", media_type.encode()), (b"Authorization", attempt.token["Authorization"].encode())]
    await api.client.put(f"/v1/workspaces/{attempt.workspace}/artifacts/x", content=b"x", headers=header)
    found = await api.client.get(f"/v1/tasks/{attempt.task}/artifacts/x")
    assert found.headers["content-type"].partition(";")[0] in ("application/octet-stream", "text/html")
    assert "x-injected" not in found.headers


@pytest.mark.parametrize(
    "name", ['a"; filename=evil.exe', "a';x", "résumé \u202egpj.exe", "a%0d%0aX: y", "-rf", "COM1", "a;b,c"]
)
async def test_a_downloads_name_is_only_a_name(api: Api, name: str) -> None:
    """Percent-encoded by RFC 8187: no part of it is read as another parameter or header."""
    attempt = await api.live()
    path = f"/v1/workspaces/{attempt.workspace}/artifacts/{quote(name, safe='')}"
    assert (await api.client.put(path, content=b"x", headers=attempt.token)).status_code == 200
    found = await api.client.get(f"/v1/tasks/{attempt.task}/artifacts/{quote(name, safe='')}")
    assert found.headers["content-disposition"] == f"attachment; filename*=UTF-8''{quote(name, safe='')}"


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """Give what the log of a process holds."""
    journal.configure(level="DEBUG")
    yield lambda: capsys.readouterr().err
    structlog.reset_defaults()


@pytest.mark.parametrize("label", HOSTILE)
def test_a_line_of_the_log_stays_one_line(said: Callable[[], str], label: str) -> None:
    """Line breaks and escapes in a name are written as JSON writes them."""
    structlog.get_logger().info("task.created", name=HOSTILE[label], path=HOSTILE[label])
    written = said()
    assert written.count("\n") == 1
    assert all(character.isprintable() for character in written.rstrip("\n"))
    assert json.loads(written)["name"] == HOSTILE[label]


@pytest.mark.parametrize("label", HOSTILE)
def test_a_terminal_is_told_nothing_by_a_name(capsys: pytest.CaptureFixture[str], label: str) -> None:
    """What the commands print of somebody else's text moves no cursor, sets no colour and forges no row."""
    screen.table(("id", "name"), [("1", screen.escape(HOSTILE[label])), ("2", "next")])
    screen.complain(HOSTILE[label])
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 3
    assert all(character.isprintable() or character in "\n\t" for character in printed.out + printed.err)


def trees() -> Iterator[tuple[str, ast.Module]]:
    """Give every module of the source."""
    for folder in ("activities", "api", "cli", "domain", "store", "workflows", "workspaces"):
        for path in (ROOT / folder).rglob("*.py"):
            yield str(path.relative_to(ROOT)), ast.parse(path.read_text())


def calls(tree: ast.AST, *names: str) -> Iterator[ast.Call]:
    """Give every call of functions of these names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in names:
                yield node


def test_no_statement_is_put_together_from_input() -> None:
    """SQL is put together, if at all, from constants when its module is loaded; the upgrade names its own tables."""
    built, found = set(), 0
    for path, tree in trees():
        if not path.startswith("store/"):
            continue
        found += len(list(calls(tree, "text", "exec_driver_sql")))
        for function in [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]:
            for call in calls(function, "text", "exec_driver_sql"):
                parts = [part for argument in call.args for part in ast.walk(argument)]
                if any(isinstance(part, (ast.JoinedStr, ast.BinOp, ast.Call)) for part in parts):
                    built.add(path)
    assert found > 20
    assert built == {"store/migrate.py"}


def test_no_visibility_query_is_put_together_from_input() -> None:
    """What decides reads workflows by id; a query for a list, if there is one, is a literal."""
    for path, tree in trees():
        for call in calls(tree, "list_workflows", "count_workflows"):
            query = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "query")]
            assert all(isinstance(argument, (ast.Constant, ast.Name)) for argument in query), path
