"""What a turn leaves: its result, checked, and its artifacts, none of them from outside of its directories."""

from pathlib import Path

import pytest

from domain.errors import Category
from tests.workspaces.conftest import Bench
from workspaces import sessions


async def test_artifacts_come_from_the_directory_and_the_globs(bench: Bench) -> None:
    """Names are relative to their roots; the directory wins over a glob of the same name."""
    script = """
    mkdir -p reports $TASKRUNNER_ARTIFACTS_DIR/deep
    echo a > "$TASKRUNNER_ARTIFACTS_DIR/deep/a b.txt"; echo mine > $TASKRUNNER_ARTIFACTS_DIR/same.xml
    echo r > reports/r.xml; echo other > same.xml; echo no > reports/r.txt
    """
    await bench.run(script, artifacts=["**/*.xml", "absent/*"])
    assert bench.api.artifacts == {"deep/a b.txt": b"a\n", "same.xml": b"mine\n", "reports/r.xml": b"r\n"}
    assert b"'absent/*' matches nothing" in bench.api.log


async def test_links_lead_nowhere(bench: Bench, tmp_path: Path) -> None:
    """Links to files and directories, upward globs, pipes: nothing from outside is kept, and the log says so."""
    (tmp_path / "outside.txt").write_text("outside")
    script = f"""
    ln -s {tmp_path}/outside.txt $TASKRUNNER_ARTIFACTS_DIR/link; ln -s {tmp_path} $TASKRUNNER_ARTIFACTS_DIR/folder
    ln -s {tmp_path} folder; mkfifo $TASKRUNNER_ARTIFACTS_DIR/pipe; echo ok > $TASKRUNNER_ARTIFACTS_DIR/ok
    """
    await bench.run(script, artifacts=["folder/*.txt", "../../../*.txt", "/etc/passwd", "../control/token"])
    assert bench.api.artifacts == {"ok": b"ok\n"}
    assert bench.api.log.count(b"links and special files are not followed") >= 5


async def test_artifact_over_the_limit_is_not_kept(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large one is streamed, a larger one is named in the log."""
    monkeypatch.setattr(sessions, "ARTIFACT_LIMIT", 3_000_000)
    script = "cd $TASKRUNNER_ARTIFACTS_DIR; head -c 3000000 /dev/zero > large; head -c 3000001 /dev/zero > larger"
    ended = await bench.run(script)
    assert {name: len(content) for name, content in bench.api.artifacts.items()} == {"large": 3_000_000}
    assert b"artifact larger is not kept" in bench.api.log
    assert ended.error is None


async def test_artifact_that_the_api_refuses_fails_nothing(bench: Bench) -> None:
    """The task goes on; the log says what was answered."""
    bench.api.rule = lambda request: 413 if request.method == "PUT" else None
    ended = await bench.run("echo x > $TASKRUNNER_ARTIFACTS_DIR/x")
    assert ended.error is None
    assert b"artifact x is not kept: the API answered 413" in bench.api.log


@pytest.mark.parametrize(
    ("script", "code", "said"),
    [
        ("head -c 70000 /dev/zero | tr '\\0' 1 > $R", "result_too_large", "70000 bytes, the limit is 64000"),
        ("echo '{not json' > $R", "result_not_json", "is not JSON"),
        ("echo '{\"a\": NaN}' > $R", "result_not_json", "is not JSON"),
        ("echo '[1e999]' > $R", "result_not_json", "is not JSON"),
        ("printf '\"\\\\u0000\"' > $R", "result_not_json", "NUL"),
        ("printf '{\"\\\\ud800\": 1}' > $R", "result_not_json", "surrogates"),
        ("printf '\\377' > $R", "result_not_json", "is not JSON"),
        ("ln -s /etc/hostname $R", "result_not_json", "is not JSON"),
        ("mkfifo $R", "result_not_json", "not a regular file"),
        ("mkdir $R", "result_not_json", "is not JSON"),
        ("python3 -c 'print(\"[\" * 30000)' > $R", "result_not_json", "is not JSON"),
    ],
)
async def test_result_that_cannot_be_kept_is_the_turns_error(bench: Bench, script: str, code: str, said: str) -> None:
    """Category `agent`; the message tells size and limit, or what is wrong with the JSON."""
    ended = await bench.run(script.replace("$R", "$TASKRUNNER_RESULT_FILE"))
    assert ended.error is not None
    assert (ended.error.code, ended.error.category, ended.result) == (code, Category.AGENT, None)
    assert said in ended.error.message


@pytest.mark.parametrize(
    ("text", "value"), [("", None), ("null", None), ("0", 0), ('{"ä": [1.5, "x"]}', {"ä": [1.5, "x"]})]
)
async def test_result_is_the_files_json(bench: Bench, text: str, value: object) -> None:
    """Any JSON value; an empty file is none."""
    ended = await bench.run('printf %s "$TEXT" > $TASKRUNNER_RESULT_FILE', env={"TEXT": text})
    assert (ended.result, ended.error) == (value, None)


async def test_exit_code_counts_more_than_a_bad_result(bench: Bench) -> None:
    """A command that failed has its exit code as the reason; the log mentions the result."""
    ended = await bench.run("echo nonsense > $TASKRUNNER_RESULT_FILE; exit 2")
    assert (ended.exit_code, ended.error) == (2, None)
    assert b"is not JSON" in bench.api.log
