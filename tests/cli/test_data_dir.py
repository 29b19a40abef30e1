import stat
from pathlib import Path

import pytest

from cli.data_dir import DataDir, RunsAlreadyError


def test_a_secret_is_made_once_and_closed_to_others(tmp_path: Path) -> None:
    """The first value stays, in a 0600 file, and no half file lies beside it."""
    data = DataDir(tmp_path)
    assert data.secret("admin") is None
    assert data.keep_secret("admin", "first") == "first"
    assert data.keep_secret("admin", "second") == "first"
    assert data.secret("admin") == "first"
    assert stat.S_IMODE((tmp_path / "admin.key").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["admin.key"]


def test_one_stack_at_a_time_and_the_second_is_told_where_the_first_is(tmp_path: Path) -> None:
    """The lock names the running API and process; once it is given back the next one gets it."""
    data = DataDir(tmp_path / "data")
    with data.locked():
        data.write_address({"api": "http://127.0.0.1:8081", "pid": 4711})
        with pytest.raises(RunsAlreadyError, match=r"runs already .*API http://127.0.0.1:8081, process 4711"):
            DataDir(tmp_path / "data").locked().__enter__()
        data.forget_address()
    with data.locked():
        assert data.address() == {}


def test_a_port_that_was_got_is_wished_for_again_while_the_wish_is_the_same(tmp_path: Path) -> None:
    """8080 came to 8083: wish for 8083 next time; a changed setting is a new wish."""
    data = DataDir(tmp_path)
    assert data.port("api", 8080) == 8080
    data.keep_port("api", 8080, 8083)
    assert data.port("api", 8080) == 8083
    assert data.port("api", 9090) == 9090
    assert data.port("temporal", 8080) == 8080


@pytest.mark.parametrize("content", ["", "{", "[]", '"text"'])
def test_a_broken_address_file_counts_as_none(tmp_path: Path, content: str) -> None:
    """What a crash left half written does not stop a command."""
    (tmp_path / "address.json").write_text(content)
    assert DataDir(tmp_path).address() == {}


def test_the_folder_is_ignored_by_git(tmp_path: Path) -> None:
    """A data directory within a checkout adds nothing to its status."""
    data = DataDir(tmp_path / "data")
    data.prepare()
    assert (tmp_path / "data" / ".gitignore").read_text() == "*\n"
