"""What a run's file says, as YAML or JSON, and which of its lines a field is in."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.run_file import FileError, RunFile, _json, _yaml, read

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)
VALUES = st.recursive(SCALARS | TEXTS, lambda some: st.lists(some) | st.dictionaries(TEXTS, some), max_leaves=20)

RUN = """\
name: ci
members:
  - name: lint
    task: &own
      command: [make, lint]
      env:
        a.b: c
  - name: test
    task:
      <<: *own
      command:
        - make
        - test
edges:
  - from: lint
    to: test
    when: {pointer: /n, op: eq}
"""
IN_JSON = '{\n\t"members": [\n\t\t{"name": "a",\n\t\t "task": {}}\n\t]\n}\n'


def of(tmp_path: Path, text: str | bytes) -> RunFile:
    """Return what a file with this content says."""
    file = tmp_path / "run.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read(file)


@given(VALUES)
def test_json_and_yaml_say_the_same(value: Any) -> None:
    """What JSON can say is itself, read as JSON or as YAML, on one line or on many."""
    for indent in (None, 2):
        text = json.dumps({"value": value}, indent=indent, ensure_ascii=False)
        assert _json(text)[0] == {"value": value}
        assert _yaml(text)[0] == {"value": value}


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("[on, off, yes, no, y, n]", ["on", "off", "yes", "no", "y", "n"]),
        ("[true, True, FALSE, null, ~, Null]", [True, True, False, None, None, None]),
        ("[017, 0o17, 0xF, -3, +3, 1_000, 1:30]", [17, 15, 15, -3, 3, "1_000", "1:30"]),
        ("[1e3, -.5, 1., .inf, .nan, 1.2.3]", [1000.0, -0.5, 1.0, ".inf", ".nan", "1.2.3"]),
        ("[2026-01-01, 12:00:00, '1', \"true\", !!str 1]", ["2026-01-01", "12:00:00", "1", "true", "1"]),
        ("{on: 1, 2: b, null: c, ? d : e}", {"on": 1, "2": "b", "null": "c", "d": "e"}),
        ("[&a {b: 1}, {<<: *a, c: 2}, {b: 3, <<: [*a, {b: 4, d: 5}]}]", [{"b": 1}, {"b": 1, "c": 2}, {"b": 3, "d": 5}]),
        ("", None),
        ("|\n  a\n  b\n", "a\nb\n"),
    ],
)
def test_yaml_is_read_as_json_would_have_it(written: str, value: Any, tmp_path: Path) -> None:
    """By the core schema of version 1.2: words stay words, dates and sexagesimals are text; `<<` takes others in."""
    assert of(tmp_path, f"value: {written}").body == {"value": value}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is no object"),
        (b"- a\n- b\n", "is no object"),
        (b"\xff\xfe\x00", "is not text in UTF-8"),
        (b"name: \x01\n", "control characters are not allowed"),
        (b"name: a: b\n", ":1:8: mapping values are not allowed"),
        (b"a: [1,\nb: 2\n", ":3:1: did not find expected ',' or ']'"),
        (b"a: 1\nb: 2\na: 3\n", ":3:1: a is there twice"),
        (b"a: *nobody\n", ":1:4: *nobody stands for nothing that ends above"),
        (b"a: !!python/name:os.system x\n", ":1:4: the tag tag:yaml.org,2002:python/name:os.system is of nothing"),
        (b"a: !!int b\n", ":1:4: invalid literal"),
        (b"? [a]\n: b\n", ":1:3: a name is needed here"),
        (b"a: {<<: b}\n", ":1:9: << takes in objects only"),
        (b"a: 1\n---\nb: 2\n", ":2:1: another document begins here"),
        (b"a: &a [*a]\n", ":1:8: *a stands for nothing that ends above"),
        (b"a: " + b"[" * 600 + b"]" * 600, "is nested too deeply"),
        (b"a: " + b"[" * 100_000, "is nested too deeply"),
        (b'{"a": ' + b"[" * 100_000, "is nested too deeply"),
        (b'{"a": 1,\n "b" 2}', ":2:6: Expecting ':' delimiter"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "c is there twice"),
        (b'{"a": NaN}', "Out of range float values"),
        (b"a: 1e999\n", "Out of range float values"),
        (b'{"a": "\\ud800"}', "half a surrogate pair"),
    ],
)
def test_what_is_no_body_is_told_with_its_place(content: bytes, says: str, tmp_path: Path) -> None:
    """File, line and column where there is one, and what is wrong there."""
    with pytest.raises(FileError) as caught:
        of(tmp_path, content)
    assert str(caught.value).startswith(f"{tmp_path / 'run.yaml'}:")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """So is a folder."""
    for path, says in ((tmp_path / "none.yaml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(FileError, match=says) as caught:
            read(path)
        assert str(path) in str(caught.value)


def test_aliases_that_stand_for_too_much_are_refused(tmp_path: Path) -> None:
    """A kilobyte that would become gigabytes is refused before it has."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    with pytest.raises(FileError, match="is too large, with all that its aliases stand for"):
        of(tmp_path, "\n".join(lines))


@pytest.mark.parametrize("content", [IN_JSON, "\ufeff" + IN_JSON, RUN])
def test_a_file_may_be_typed_instead(content: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`-` is standard input; it says the same, with a mark of its encoding in front, too."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    typed = read(Path("-"))
    assert typed.body == of(tmp_path, content).body
    assert typed.place("members") == f"<stdin>:{2}"


@pytest.mark.parametrize(
    ("content", "field", "line"),
    [
        (RUN, "name", 1),
        (RUN, "members", 2),
        (RUN, "members.0", 3),
        (RUN, "members.0.name", 3),
        (RUN, "members.0.task.env.a.b", 7),
        (RUN, "members.0.task.repo.url", 4),
        (RUN, "members.1.task.command.1", 13),
        (RUN, "members.1.task.env", 9),
        (RUN, "members.10.task", 2),
        (RUN, "edges.0.when.condition.op", 17),
        (RUN, "edges.0.when.outcome", 17),
        (IN_JSON, "members.0.task.command", 4),
        (IN_JSON, "members", 2),
    ],
)
def test_the_line_of_a_field_is_found(content: str, field: str, line: int, tmp_path: Path) -> None:
    """Its own, or that of what it is missing in; what the schema names and the file does not is passed over."""
    assert of(tmp_path, content).place(field) == f"{tmp_path / 'run.yaml'}:{line}"


def test_a_field_that_is_nowhere_is_the_files(tmp_path: Path) -> None:
    """Without a line; so is every field of JSON that YAML cannot read."""
    assert of(tmp_path, "name: a\n").place("members") == str(tmp_path / "run.yaml")
    assert of(tmp_path, '{"a": "\\ud83d\\ude00", "b": 1}').place("b") == str(tmp_path / "run.yaml")
    assert of(tmp_path, '{"a": "\\ud83d\\ude00", "b": 1}').body["a"] == "😀"
