"""The template for machines in a cloud, as far as a template can be tested: what it says is what the product takes."""

import configparser
import re
import shlex
from pathlib import Path
from typing import Any, Final

import pytest
import typer
import yaml
from typer.main import get_command

from cli.main import app
from settings import Settings

TEXT: Final = (Path(__file__).parents[2] / "deploy" / "cloud-init.yaml").read_text()
# What a person puts in.
FILLED: Final = {
    "<token>": "tr_secret",
    "<https://tasks.example.com>": "https://tasks.example.com",
    "<8>": "8",
    "<cloud>": "eu-1",
    "<taskrunner>": "taskrunner",
}


@pytest.fixture(name="template")
def _template() -> dict[str, Any]:
    """Give the template, filled in."""
    text = TEXT
    for hole, value in FILLED.items():
        text = text.replace(hole, value)
    return dict(yaml.safe_load(text))


def files(template: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Give the files that it writes, by path."""
    return {file["path"]: file for file in template["write_files"]}


def unit(template: dict[str, Any]) -> configparser.ConfigParser:
    """Give the service that it installs."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(files(template)["/etc/systemd/system/taskrunner-node.service"]["content"])
    return parser


def test_it_is_cloud_config_with_known_holes() -> None:
    """The first line is the one that cloud-init asks for; what is to be replaced is what this suite replaces."""
    assert TEXT.splitlines()[0] == "#cloud-config"
    rest = "\n".join(line for line in TEXT.splitlines() if not line.lstrip().startswith("#"))
    assert set(re.findall(r"<[^>\s]+>", rest)) == set(FILLED)


def test_the_service_joins_by_a_command_that_there_is(template: dict[str, Any]) -> None:
    """`nodes join` takes its arguments, and the token's file is one that the template writes, for its owner only."""
    program, *words = shlex.split(unit(template)["Service"]["ExecStart"])
    assert program == "/opt/taskrunner/bin/taskrunner"
    assert words[:2] == ["nodes", "join"]
    join = get_command(app).commands["nodes"].commands["join"]  # type: ignore[attr-defined]
    context: typer.Context = join.make_context("join", words[2:])
    given = context.params
    assert (given["api"], given["slots"], given["label"]) == ("https://tasks.example.com", 8, ["pool=eu-1"])
    token = files(template)[str(given["token_file"])]
    assert (token["permissions"], token["owner"], token["content"]) == ("0600", "taskrunner:taskrunner", "tr_secret")
    # The user is made after the first files are written.
    assert token["defer"] is True


def test_the_token_stands_in_its_file_and_nowhere_else(template: dict[str, Any]) -> None:
    """Neither in a command nor in a service."""
    rest = [file["content"] for path, file in files(template).items() if path != "/etc/taskrunner/token"]
    assert "tr_secret" not in str([rest, template["runcmd"]])


def test_the_account_owns_what_it_works_in(template: dict[str, Any]) -> None:
    """The service's user is one that the template makes, and its folder is given to it, closed to others."""
    service = unit(template)["Service"]
    names = [user["name"] for user in template["users"] if isinstance(user, dict)]
    assert names == [service["User"]]
    folder = ["install", "-d", "-o", "taskrunner", "-g", "taskrunner", "-m", "0700", "/var/lib/taskrunner"]
    assert folder in template["runcmd"]
    assert files(template)[service["EnvironmentFile"]]["permissions"] == "0600"


def test_a_stop_leaves_the_agents_to_the_next_start(template: dict[str, Any]) -> None:
    """Only the node's own process is told, it has longer than a drain takes, and one that was drained stays down."""
    service = unit(template)["Service"]
    assert (service["KillMode"], service["Restart"]) == ("process", "on-failure")
    assert float(service["TimeoutStopSec"]) > Settings().node_drain.total_seconds() + 20
