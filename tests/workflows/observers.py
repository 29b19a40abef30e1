"""Hooks in a package of their own, installed as an operator installs one."""

import subprocess
import sys
from pathlib import Path

PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "observers"
version = "1"

[project.entry-points."taskrunner.hooks"]
notes = "observers:Notes"
raises = "observers:Raises"
hangs = "observers:Hangs"
meddles = "observers:Meddles"
broken = "observers:Broken"
missing = "observers:Missing"

[tool.hatch.build.targets.wheel]
only-include = ["observers.py"]
"""
MODULE = """
import threading

seen, tried, let_go, hung = [], [], threading.Event(), []


class Notes:
    def before_step(self, fact):
        seen.append(("before_step", fact))

    def after_step(self, fact):
        seen.append(("after_step", fact))

    def on_pause(self, fact):
        seen.append(("on_pause", fact))

    def on_terminal(self, fact):
        seen.append(("on_terminal", fact))


class Raises:
    def before_step(self, fact):
        raise SystemExit("no step may begin")

    def on_terminal(self, fact):
        raise RuntimeError("no task may end")


class Hangs:
    def before_step(self, fact):
        hung.append(fact)
        let_go.wait()


class Meddles:
    def on_terminal(self, fact):
        for change in (lambda: setattr(fact, "outcome", "failed"), lambda: object.__setattr__(fact, "outcome", "x")):
            try:
                change()
            except AttributeError as error:
                tried.append(str(error))


class Broken:
    def __init__(self):
        raise ValueError("no configuration")
"""


def installed(folder: Path) -> Path:
    """Build the package, install it, and give the folder that Python finds it in."""
    source, site = folder / "source", folder / "site"
    source.mkdir()
    (source / "pyproject.toml").write_text(PROJECT)
    (source / "observers.py").write_text(MODULE)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(site), str(source)], check=True)
    return site
