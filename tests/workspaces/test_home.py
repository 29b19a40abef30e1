import subprocess
import sys
from pathlib import Path

import pytest

from workspaces.home import ID, HomeTakenError, held


def test_a_folder_is_one_nodes_at_a_time(tmp_path: Path) -> None:
    """HomeTakenError, which names the folder and the way out, for as long as somebody else works there."""
    folder = tmp_path / "a" / "b"
    with held(folder) as first, pytest.raises(HomeTakenError, match=f"{folder}.*--data-dir"), held(folder):
        pass
    with held(folder) as second:
        assert second == first


def test_a_process_that_is_killed_leaves_its_folder_to_the_next_start(tmp_path: Path) -> None:
    """The same id again, without a wait."""
    program = "import os, sys\nfrom pathlib import Path\nfrom workspaces.home import held\n"
    program += "with held(Path(sys.argv[1])) as home:\n    print(home, flush=True)\n    os.kill(os.getpid(), 9)\n"
    dead = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True, check=False
    )
    assert dead.returncode == -9
    with held(tmp_path) as home:
        assert home == dead.stdout.strip()


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"../../etc\n"])
def test_a_broken_id_is_made_anew(tmp_path: Path, content: bytes) -> None:
    """36 characters, and the same at the next start."""
    (tmp_path / ID).write_bytes(content)
    with held(tmp_path) as first:
        assert len(first) == 36
    with held(tmp_path) as second:
        assert second == first


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    """OSError, before anybody is told of the node."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"), held(tmp_path / "file" / "below"):
        pass
