"""The body of a task: what is accepted, and what is refused at the door with its field and its reason."""

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from domain.errors import TRANSIENT_CATEGORIES, Category
from domain.spec import DEPTH_LIMIT, Provider, Retry, TaskSpec, json_of


def body(**fields: Any) -> dict[str, Any]:
    """Return the smallest good body, with these fields instead."""
    return {"command": ["true"]} | fields


def nested(depth: int) -> Any:
    """Return lists in lists."""
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


GOOD_URLS = [
    "https://example.org/team/repo.git",
    "https://user@example.org/repo",
    "https://[::1]:8443/repo",
    "ssh://git@example.org:2222/repo.git",
    "git://example.org/repo",
    "file:///srv/repo",
    "git@example.org:team/repo.git",
    "deploy-1@10.0.0.1:/srv/repo",
]
BAD_URLS = {
    "ext::sh -c touch% /tmp/x": "transport helpers such as ext:: are refused",
    "ext::ssh://example.org/x": "transport helpers such as ext:: are refused",
    "fd::17": "transport helpers such as ext:: are refused",
    "git@example.org::x": "transport helpers such as ext:: are refused",
    "--upload-pack=touch /tmp/x": "must be an https, ssh, git or file URL",
    "-oProxyCommand=x@h:p": "must be an https, ssh, git or file URL",
    "ssh://-oProxyCommand=touch/x": "git would read as an option",
    "git@-oProxyCommand=touch:x": "git would read as an option",
    "https://user:secret@example.org/repo": "must not hold a password",
    "ssh://git:secret@example.org/repo": "must not hold a password",
    "http://example.org/repo": "must be an https, ssh, git or file URL",
    "ftp://example.org/repo": "must be an https, ssh, git or file URL",
    "example.org:repo": "must be an https, ssh, git or file URL",
    "/srv/repo": "must be an https, ssh, git or file URL",
    "repo": "must be an https, ssh, git or file URL",
    "@example.org:repo": "must be an https, ssh, git or file URL",
    "git@example.org:": "must be an https, ssh, git or file URL",
    "https:///repo": "must name a host and a path",
    "https://example.org": "must name a host and a path",
    "file://": "must name a host and a path",
    "https://[::1/repo": "Invalid IPv6 URL",
    "https://example.org/a b": "white space or control characters",
    "git@example.org\n:repo": "white space or control characters",
    "https://example.org/\x00": "NUL",
    "": "at least 1 character",
    "https://example.org/" + "x" * 2048: "at most 2048 characters",
}
GOOD_REFS = ["main", "v1.0", "feature/x-y", "refs/pull/7/head", "3f2a9c1", "a@b", "release_1"]
BAD_REFS = [
    "-x", "--upload-pack=x", "+main", "/main", "main/", "a b", "a\tb", "a..b", "a:b", "HEAD~1", "HEAD^", "@", "@{-1}",
    "a//b", "a.lock", "a.", ".a", "a/.b", "a*", "a?", "a[b", "a\\b", "a\x00", "a\x7f", "", "x" * 256,
]  # fmt: skip

# (body, the field that is named, the reason)
REFUSED: dict[str, tuple[dict[str, Any], tuple[str | int, ...], str]] = {
    "both command and agent": (
        body(agent={"preset": "claude", "prompt": "go"}),
        (),
        "exactly one of `command` and `agent` is needed",
    ),
    "an image without a container": (body(image="debian"), (), "`image` is for the provider docker"),
    "neither command nor agent": ({}, (), "exactly one of `command` and `agent` is needed"),
    "an empty argv": (body(command=[]), ("command",), "at least 1 item"),
    "an argv without a program": (body(command=["", "x"]), ("command",), "must begin with the name of a program"),
    "an empty argv in setup": (body(setup=[["true"], []]), ("setup", 1), "at least 1 item"),
    "a command line instead of an argv": (body(command="ls -l"), ("command",), "valid list"),
    "a number in an argv": (body(command=["sleep", 1]), ("command", 1), "valid string"),
    "a NUL in an argument": (body(command=["echo", "a\x00b"]), ("command", 1), "NUL"),
    "a NUL in setup": (body(setup=[["a\x00"]]), ("setup", 0, 0), "NUL"),
    "a NUL in the environment": (body(env={"A": "\x00"}), ("env", "A"), "NUL"),
    "a NUL in a prompt": ({"agent": {"preset": "claude", "prompt": "\x00"}}, ("agent", "prompt"), "NUL"),
    "a NUL in the input": (body(input={"a": ["\x00"]}), ("input",), "NUL"),
    "a NUL in a key of the input": (body(input={"\x00": 1}), ("input",), "NUL"),
    "a NUL in a label": (body(labels={"a": "\x00"}), ("labels", "a"), "NUL"),
    "a NUL in an attachment's id": (body(attachments=["\x00"]), ("attachments", 0), "pattern"),
    "a NUL in a node's id": (body(preferred_node="\x00"), ("preferred_node",), "pattern"),
    "half a surrogate pair in the input": (body(input="\ud800"), ("input",), "Unicode"),
    "half a surrogate pair in an argument": (body(command=["\ud800"]), ("command", 0), "unicode"),
    "NaN in the input": (body(input=[float("nan")]), ("input",), "NaN"),
    "an infinity in the input": (body(input={"a": float("-inf")}), ("input",), "NaN or an infinity"),
    "an input that is nested too deeply": (body(input=nested(20_000)), ("input",), "nested deeper than 64 levels"),
    "a name of 10,000 characters": (body(name="x" * 10_000), ("name",), "at most 200 characters"),
    "a name of blanks": (body(name="  "), ("name",), "at least 1 character"),
    "an argument that no kernel takes": (body(command=["x" * 131_073]), ("command", 0), "at most 131072 characters"),
    "an unknown field": (body(comand=["ls"]), ("comand",), "Extra inputs are not permitted"),
    "an unknown field within": (body(retry={"atempts": 3}), ("retry", "atempts"), "Extra inputs are not permitted"),
    "a priority as text": (body(priority="3"), ("priority",), "valid integer"),
    "a priority as a truth": (body(priority=True), ("priority",), "valid integer"),
    "a priority of 0": (body(priority=0), ("priority",), "greater than or equal to 1"),
    "a priority of 6": (body(priority=6), ("priority",), "less than or equal to 5"),
    "a truth as text": (body(followup="yes"), ("followup",), "valid boolean"),
    "an unknown provider": (body(provider="vm"), ("provider",), "'local', 'docker' or 'external'"),
    "an unknown category": (body(retry={"on": ["weather"]}), ("retry", "on", 0), "Input should be"),
    "no attempt at all": (body(retry={"max_attempts": 0}), ("retry", "max_attempts"), "greater than or equal to 1"),
    "a duration of 0": (body(timeouts={"running": 0}), ("timeouts", "running"), "longer than zero"),
    "a duration in the past": (body(timeouts={"running": "-PT1H"}), ("timeouts", "running"), "longer than zero"),
    "a duration of an age": (body(timeouts={"running": "P9999D"}), ("timeouts", "running"), "at most 366 days"),
    "a duration that is none": (body(timeouts={"running": "soon"}), ("timeouts", "running"), "duration"),
    "a truth as a duration": (body(timeouts={"running": True}), ("timeouts", "running"), "ISO-8601"),
    "a reserved variable": (body(env={"TASKRUNNER_TOKEN": "x"}), (), "TASKRUNNER_TOKEN"),
    "a reserved secret": (body(secrets=["TASKRUNNER_TOKEN"]), (), "TASKRUNNER_TOKEN"),
    "a variable that is a secret too": (body(env={"A": "1"}, secrets=["A"]), (), "both in `env` and in `secrets`: A"),
    "a variable's name with a line end": (body(env={"A\n": "1"}), ("env", "A\n", "[key]"), "pattern"),
    "a variable's name with an equals sign": (body(env={"A=B": "1"}), ("env", "A=B", "[key]"), "pattern"),
    "an artifact outside": (body(artifacts=["../../etc/passwd"]), ("artifacts", 0), "stay in it"),
    "an artifact by its full path": (body(artifacts=["/etc/passwd"]), ("artifacts", 0), "stay in it"),
    "a limit beyond reason": (body(resources={"memory_mb": 10**30}), ("resources", "memory_mb"), "less than or equal"),
    "an unknown step": (body(breakpoints={"before": ["lunch"]}), ("breakpoints", "before", 0), "Input should be"),
    "too many labels": (body(labels={f"l{n}": "" for n in range(33)}), ("labels",), "at most 32 items"),
    "no object": ([], (), "valid dictionary"),  # type: ignore[dict-item]
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_by_field_and_reason(case: str) -> None:
    """One error, that names the field and says what is wrong with it."""
    given_body, field, reason = REFUSED[case]
    with pytest.raises(ValidationError) as refused:
        TaskSpec.model_validate(given_body)
    [error] = refused.value.errors()
    assert error["loc"] == field
    assert reason in error["msg"]


@pytest.mark.parametrize("url", GOOD_URLS)
def test_a_repository_may_be_named_by(url: str) -> None:
    """https, ssh, git, file, and the scp-like form."""
    spec = TaskSpec.model_validate(body(repo={"url": url}))
    assert spec.repo is not None
    assert spec.repo.url == url


@pytest.mark.parametrize("url", BAD_URLS)
def test_a_repository_may_not_be_named_by(url: str) -> None:
    """Options, transport helpers, passwords, other schemes: refused at `repo.url` with the reason."""
    with pytest.raises(ValidationError) as refused:
        TaskSpec.model_validate(body(repo={"url": url}))
    [error] = refused.value.errors()
    assert error["loc"] == ("repo", "url")
    assert BAD_URLS[url] in error["msg"]


def test_a_refused_password_is_not_repeated() -> None:
    """The reason does not say what the password was."""
    with pytest.raises(ValidationError) as refused:
        TaskSpec.model_validate(body(repo={"url": "https://user:hunter2@example.org/x"}))
    assert "hunter2" not in refused.value.errors(include_input=False, include_context=False)[0]["msg"]


@pytest.mark.parametrize("ref", GOOD_REFS)
def test_a_ref_may_be(ref: str) -> None:
    """A branch, a tag, a full name or a commit."""
    spec = TaskSpec.model_validate(body(repo={"url": GOOD_URLS[0], "ref": ref}))
    assert spec.repo is not None
    assert spec.repo.ref == ref


@pytest.mark.parametrize("ref", BAD_REFS)
def test_a_ref_may_not_be(ref: str) -> None:
    """What git would read as an option, a range, a refspec or an expression."""
    with pytest.raises(ValidationError) as refused:
        TaskSpec.model_validate(body(repo={"url": GOOD_URLS[0], "ref": ref}))
    assert refused.value.errors()[0]["loc"] == ("repo", "ref")


def test_the_defaults_are_the_contracts() -> None:
    """4 attempts on transient categories, priority 3, a local workspace that is never kept, no follow-up."""
    spec = TaskSpec.model_validate(body())
    assert (spec.retry.max_attempts, spec.retry.on) == (4, TRANSIENT_CATEGORIES)
    assert (spec.priority, spec.provider, spec.followup) == (3, Provider.LOCAL, False)
    assert (spec.keep_workspace.on, spec.input, spec.timeouts.running) == ("never", None, None)


def test_a_whole_body_is_accepted_and_comes_back() -> None:
    """Every field of the contract's body; what was stored is read again to the same value."""
    whole = {
        "name": "  all of it  ",
        "repo": {"url": GOOD_URLS[0], "ref": "main", "credential": "DEPLOY_KEY"},
        "setup": [["make", "setup"], ["true"]],
        "agent": {"preset": "claude", "prompt": "Mend it."},
        "env": {"A": "1"},
        "secrets": ["API_KEY"],
        "input": {"a": [1, None, {"b": "ü"}]},
        "attachments": ["0197f000-0000-7000-8000-000000000000"],
        "artifacts": ["out/**/*.txt", "report.md"],
        "provider": "docker",
        "image": "python:3.11-slim",
        "node_labels": {"gpu": "yes"},
        "preferred_node": "node-1",
        "resources": {"cpus": 0.5, "cpu_seconds": 60, "memory_mb": 512, "disk_mb": 100, "processes": 20},
        "timeouts": {"running": "PT2H", "workspace_ready": 90, "cleanup": "30"},
        "retry": {"max_attempts": 2, "on": ["timeout"], "backoff": 1.5},
        "priority": 1,
        "followup": True,
        "keep_workspace": {"on": "failure", "for": "P1D"},
        "breakpoints": {"before": ["running"], "after": ["agent_session"], "each_step": True},
        "labels": {"team/x": "y"},
    }
    spec = TaskSpec.model_validate(whole)
    assert (spec.name, spec.timeouts.running, spec.timeouts.cleanup) == (
        "all of it",
        timedelta(hours=2),
        timedelta(seconds=30),
    )
    assert spec.retry.on == {Category.TIMEOUT}
    assert TaskSpec.model_validate(json_of(spec)) == spec


def test_what_was_left_out_is_not_stored() -> None:
    """The stored body holds what the caller said, so that a later default is not mistaken for a wish."""
    assert json_of(TaskSpec.model_validate(body(keep_workspace={"for": 60}))) == {
        "command": ["true"],
        "keep_workspace": {"for": "PT1M"},
    }


@pytest.mark.parametrize(
    ("fields", "title"),
    [
        (body(name="named"), "named"),
        (body(command=["make", "test\n all"]), "make test all"),
        (body(command=["x" * 500]), "x" * 80),
        ({"agent": {"preset": "codex", "prompt": "Mend it,\nplease."}}, "Mend it, please."),
        (body(command=["\u200b"]), "\u200b"),
    ],
)
def test_a_task_without_a_name_is_called_by_what_it_runs(fields: dict[str, Any], title: str) -> None:
    """One line of at most 80 characters."""
    assert TaskSpec.model_validate(fields).title == title


@pytest.mark.parametrize(("depth", "good"), [(DEPTH_LIMIT - 1, True), (DEPTH_LIMIT, False)])
def test_an_input_may_be_nested_to_the_limit(depth: int, good: bool) -> None:  # noqa: FBT001 - a table's column
    """64 levels, the innermost value counted."""
    try:
        TaskSpec.model_validate(body(input=nested(depth)))
    except ValidationError:
        assert not good
    else:
        assert good


@given(st.integers(1, 100), st.timedeltas(timedelta(milliseconds=1), timedelta(days=366)))
def test_the_next_attempt_is_never_in_another_age(attempt: int, backoff: timedelta) -> None:
    """Doubling stops at an hour, or at `backoff` itself: no attempt's delay leaves the calendar."""
    delay = Retry(backoff=backoff, max_attempts=100).delay_after(attempt)
    assert backoff <= delay <= max(backoff, timedelta(hours=1))


def test_the_delay_doubles() -> None:
    """5, 10, 20, 40 s … 1 h."""
    seconds = [Retry().delay_after(attempt).total_seconds() for attempt in (1, 2, 3, 4, 20)]
    assert seconds == [5, 10, 20, 40, 3600]


@pytest.mark.parametrize(
    ("on", "category", "retryable", "again"),
    [
        (TRANSIENT_CATEGORIES, Category.WORKSPACE, True, True),
        (TRANSIENT_CATEGORIES, Category.TIMEOUT, False, False),
        (TRANSIENT_CATEGORIES, Category.AGENT, False, False),
        ({Category.AGENT}, Category.AGENT, False, True),
        ({Category.AGENT}, Category.WORKSPACE, True, False),
        ({Category.CANCELLED}, Category.CANCELLED, False, False),
    ],
)
def test_who_names_a_category_asks_for_another_attempt(
    on: set[Category], category: Category, *, retryable: bool, again: bool
) -> None:
    """By default what is transient and retryable; beyond that, what `on` names; a cancel never."""
    assert Retry(on=frozenset(on)).helps_against(category, retryable=retryable) is again


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=10))
def test_an_input_is_taken_or_refused_and_never_an_accident(value: Any) -> None:
    """What is taken holds nothing that JSON in PostgreSQL cannot hold."""
    try:
        spec = TaskSpec.model_validate(body(input=value))
    except ValidationError:
        return
    written = json.dumps(json_of(spec), allow_nan=False, ensure_ascii=False)
    assert "\\u0000" not in written.replace("\\\\", "")
    assert written.encode().decode() == written
