import shutil
import subprocess
import sys
from pathlib import Path

from tests.cli.stacks import CHECKOUT, StackProcess


def test_the_wheel_works_outside_the_checkout(tmp_path: Path) -> None:
    """Installed from the wheel, in a folder full of modules named like ours, the stack starts and runs a task."""
    python = wheel_installed(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("settings", "worker", "domain", "api", "store"):
        (elsewhere / f"{name}.py").write_text("raise SystemExit('a stranger was imported')\n")
    program = (str(python.parent / "taskrunner"),)
    stack = StackProcess(elsewhere / "data", program=program, cwd=elsewhere, PYTHONPATH="").up()
    try:
        assert "hello" in stack.run("start", "--", "echo", "hello")
    finally:
        assert stack.stop() == 0
    assert "--repo" in stack.run("demo", code=2)


def wheel_installed(tmp_path: Path) -> Path:
    """Build the wheel, install it into a fresh environment that borrows our dependencies; return its Python."""
    source = tmp_path / "source"
    tracked = subprocess.run(["git", "-C", str(CHECKOUT), "ls-files"], capture_output=True, text=True, check=True)
    for name in tracked.stdout.splitlines():
        if (CHECKOUT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(CHECKOUT / name, source / name)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    python = venv / "bin" / "python"
    site = Path(
        subprocess.check_output([python, "-c", "import site; print(site.getsitepackages()[0])"], text=True).strip()
    )
    ours = [path for path in sys.path if path.endswith("site-packages")]
    (site / "borrowed.pth").write_text("\n".join(ours) + "\n")
    wheel = next(tmp_path.glob("*.whl"))
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    return python
