"""The compose file and the Dockerfile, as far as they can be checked without a container engine."""

import os
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from api.auth import _RANDOM as FORM
from api.auth import PREFIX as PREFIX_OF_KEYS
from cli.main import app
from settings import PREFIX, SECRETS_DIR, Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if service["image"].startswith("taskrunner")]
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()


def command_of(service: dict[str, Any]) -> list[str]:
    """Return what a service of ours runs, as the CLI gets it."""
    return list(service.get("command", []))


@pytest.mark.parametrize("name", [name for name in OURS if "command" in SERVICES[name]])
def test_a_command_is_one_of_the_cli(name: str) -> None:
    """The words lead to a command, and the rest of the line is what it takes."""
    command: Any = typer.main.get_command(app)
    words = command_of(SERVICES[name])
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    with command.make_context(name, words, resilient_parsing=False) as context:
        assert not context.args


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_healthy_or_done(name: str) -> None:
    """A service that stays has a health check; a job restarts on failure only, and somebody waits for its end."""
    service = SERVICES[name]
    if "healthcheck" in service:
        assert service["restart"] == "unless-stopped"
        assert service["healthcheck"]["test"][0] == "CMD"
        return
    assert service["restart"].startswith("on-failure")
    waits = [other["depends_on"].get(name, {}).get("condition") for other in SERVICES.values() if "depends_on" in other]
    assert "service_completed_successfully" in waits


@pytest.mark.parametrize("name", SERVICES)
def test_who_is_waited_for_can_answer(name: str) -> None:
    """`service_healthy` of one with a health check, `service_completed_successfully` of a job."""
    for other, wait in SERVICES[name].get("depends_on", {}).items():
        expected = "service_healthy" if "healthcheck" in SERVICES[other] else "service_completed_successfully"
        assert wait["condition"] == expected


@pytest.mark.parametrize("name", SERVICES)
def test_an_image_is_pinned(name: str) -> None:
    """A version for whatever is not built here, and never the vendor's image for development."""
    image = SERVICES[name]["image"]
    assert re.fullmatch(r"taskrunner:latest|[a-z/-]+:[0-9][0-9.]*", image)
    assert "auto-setup" not in image


@pytest.mark.parametrize("name", OURS)
def test_a_container_of_ours_has_no_more_than_it_needs(name: str) -> None:
    """Read-only root, no capabilities, no new privileges, an init that reaps."""
    service = SERVICES[name]
    assert (service["read_only"], service["cap_drop"], service["init"]) == (True, ["ALL"], True)
    assert service["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("name", OURS)
def test_every_setting_of_the_environment_exists(name: str) -> None:
    """Each TASKRUNNER_… variable is a field of the settings."""
    for variable in SERVICES[name]["environment"]:
        if variable.startswith(PREFIX) and variable != SECRETS_DIR:
            assert variable.removeprefix(PREFIX).lower() in Settings.model_fields


def test_no_secret_stands_in_an_environment() -> None:
    """Passwords and keys are files: no variable has such a name, but those that name a file."""
    names = [variable for service in SERVICES.values() for variable in service.get("environment", {})]
    assert [v for v in names if re.search("PASSWORD|PWD|KEY|TOKEN", v) and not v.endswith("_FILE")] == []


def test_every_secret_is_a_file_that_is_made(tmp_path: Path) -> None:
    """`make-secrets` writes each of them once; the folder is closed; a second run keeps what is there."""
    script = tmp_path / "make-secrets"
    script.write_text((DEPLOY / "make-secrets").read_text())
    runs = []
    for _ in range(2):
        subprocess.run(["bash", str(script)], check=True)
        runs.append({file.name: file.read_text() for file in (tmp_path / "secrets").iterdir()})
    assert runs[0] == runs[1]
    assert {name: f"./secrets/{name}" for name in runs[0]} == {n: s["file"] for n, s in COMPOSE["secrets"].items()}
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    used = {secret for service in SERVICES.values() for secret in service.get("secrets", [])}
    assert used == set(COMPOSE["secrets"])


def test_the_secrets_are_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `make-secrets` writes is read by the settings from the folder that the containers name."""
    script = tmp_path / "make-secrets"
    script.write_text((DEPLOY / "make-secrets").read_text())
    subprocess.run(["bash", str(script)], check=True)
    monkeypatch.setenv(SECRETS_DIR, str(tmp_path / "secrets"))
    settings = Settings()
    assert settings.database_url.startswith("postgresql+psycopg://taskrunner:")
    assert settings.callback_keys.get_secret_value().startswith("k1:")
    assert settings.node_token.get_secret_value().startswith("tr_")


def test_the_keys_are_such_as_the_api_knows(tmp_path: Path) -> None:
    """A key of another form is refused before it is looked for."""
    script = tmp_path / "make-secrets"
    script.write_text((DEPLOY / "make-secrets").read_text())
    subprocess.run(["bash", str(script)], check=True)
    keys = [
        file.read_text() for file in (tmp_path / "secrets").iterdir() if file.read_text().startswith(PREFIX_OF_KEYS)
    ]
    assert len(keys) == 2
    assert all(FORM.fullmatch(key, len(PREFIX_OF_KEYS)) for key in keys)


def test_secrets_are_never_committed() -> None:
    """Git ignores the folder."""
    ignored = subprocess.run(["git", "check-ignore", "deploy/secrets/x"], cwd=ROOT, capture_output=True, check=False)
    assert ignored.returncode == 0


def test_everything_mounted_exists() -> None:
    """Each file or folder of a bind mount is in the repository; scripts can be executed."""
    mounts = [mount.split(":")[0] for s in SERVICES.values() for mount in s.get("volumes", []) if mount.startswith(".")]
    assert mounts
    assert [mount for mount in mounts if not (DEPLOY / mount).exists()] == []
    scripts = [*DEPLOY.glob("*/*.sh"), DEPLOY / "make-secrets"]
    assert [script.name for script in scripts if not os.access(script, os.X_OK)] == []
    for script in scripts:
        subprocess.run(["bash", "-n", str(script)], check=True)


def test_everything_copied_exists_and_is_let_through() -> None:
    """Each source of a COPY is in the repository and in .dockerignore's list; the wheel's packages are among them."""
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, flags=re.MULTILINE)
        for source in line.split()[:-1]
    }
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert [source for source in copied if not (ROOT / source).exists()] == []
    assert copied == allowed
    packages = re.search(r"^only-include = \[(.*)\]", (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    assert packages is not None
    assert set(re.findall(r'"([^"]+)"', packages[1])) <= copied


def test_the_image_is_slim_and_nobodys_root() -> None:
    """Two stages of python:3.11-slim; the last one runs as an account of its own."""
    stages = re.findall(r"^FROM (\S+)", DOCKERFILE, flags=re.MULTILINE)
    assert stages == ["python:3.11-slim", "python:3.11-slim"]
    assert re.findall(r"^USER (\S+)", DOCKERFILE, flags=re.MULTILINE) == ["taskrunner"]


def test_the_constraints_are_the_exact_versions() -> None:
    """The Dockerfile's own sed turns every requirement into a plain `name==version`."""
    [program] = re.findall(r"sed -nE '([^']+)'", DOCKERFILE)
    lines = subprocess.run(
        ["sed", "-nE", program, str(ROOT / "requirements.txt")], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!_-]+", line) for line in lines)
    pins = re.findall(r"^[A-Za-z0-9].*==", (ROOT / "requirements.txt").read_text(), flags=re.MULTILINE)
    assert len(lines) == len(pins)
