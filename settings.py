"""Every setting, read once at the process edge; `TASKRUNNER_…` in the environment, `__` between a group and its name.

Where `TASKRUNNER_SECRETS_DIR` names a folder, a setting may be a file there instead, by the same name in small letters.

Temporal's address, namespace, TLS and API key come from Temporal's own environment configuration (`TEMPORAL_…`).
"""

import os
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SecretsSettingsSource, SettingsConfigDict

from domain.containers import Containers
from domain.durations import Span
from domain.placement import Placement
from domain.policy import Budgets, Limits, Policy, Retention, StepRetry, Supervision, inconsistencies
from domain.provisioning import Provisioning
from domain.rotation import payload_keys
from domain.signatures import SigningKeys
from domain.spec import Provider
from domain.thresholds import Thresholds
from domain.webhooks import Webhooks

PREFIX: Final = "TASKRUNNER_"
SECRETS_DIR: Final = "TASKRUNNER_SECRETS_DIR"


class Settings(BaseSettings):
    """The set as a whole; an inconsistent one refuses to load and names both settings."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__", frozen=True)

    data_dir: Path = Field(default=Path(".taskrunner"), description="Where the embedded stack and nodes keep files.")
    database_url: str = Field(default="", description="`postgresql+psycopg://…`; empty: the embedded PostgreSQL.")
    database_pool: int = Field(default=20, ge=1, description="Connections per process.")

    host: str = Field(default="127.0.0.1", description="The API's address.")
    port: int = Field(default=8080, ge=0, le=65535, description="The API's port; the next free one if it is taken.")
    url: str = Field(
        default="", description="The API's address as workspaces and nodes reach it; empty: host and port."
    )
    request_rate: int = Field(
        default=1000,
        ge=0,
        description="Requests a second of one key, or of one workspace, to each API process; 0: any number.",
    )
    temporal_ui_url: str = Field(default="http://127.0.0.1:8233", description="For links to histories.")

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="The least that the log has of ours; DEBUG: a line for each request."
    )
    metrics_host: str = Field(
        default="127.0.0.1", description="Where each process serves its metrics; other than loopback needs a token."
    )
    metrics_port: int | None = Field(
        default=9464,
        ge=0,
        le=65535,
        description="The metrics' port, the next free one if it is taken; 0: any; empty: nothing is counted.",
    )
    metrics_token: SecretStr = Field(
        default=SecretStr(""), description="Whoever fetches metrics must send it as a bearer token; empty: nobody must."
    )

    callback_keys: SecretStr = Field(
        default=SecretStr(""), description="`id:hex,…`: keys that sign callback tokens; the first one signs."
    )
    payload_keys: SecretStr = Field(
        default=SecretStr(""),
        description="`id:hex,…`, 32 bytes each: encrypt what Temporal keeps of tasks; the first one encrypts.",
    )
    webhook_keys: SecretStr = Field(
        default=SecretStr(""),
        description="`id:hex,…`, 32 bytes or more: what secrets of webhooks are derived from, new ones from the first; "
        "empty: no webhooks.",
    )
    callback_token: Span = Field(default=timedelta(hours=144), description="How long a callback token lives.")
    session: Span = Field(default=timedelta(hours=1), description="How long a browser's session lasts.")
    stuck_after: Span = Field(default=timedelta(hours=1), description="When an unchanged task counts as stuck.")
    reconcile_every: Span = Field(
        default=timedelta(seconds=30), description="How often rows, workflows and the ledger are compared."
    )
    idempotency: Span = Field(default=timedelta(hours=24), description="How long an Idempotency-Key is kept.")

    node_id: str = Field(default="local", pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="This node's id.")
    node_slots: int = Field(default=4, ge=1, description="Workspaces that this node hosts at once.")
    node_labels: dict[str, str] = Field(default={}, description="JSON; tasks choose nodes by them.")
    node_token: SecretStr = Field(
        default=SecretStr(""),
        description="The token by which the API knows this node; `nodes tokens create` makes one.",
    )
    node_drain: Span = Field(
        default=timedelta(seconds=10),
        description="How long a node that is stopped waits for its tasks; what runs on is adopted by its next start.",
    )
    node_temporal_address: str = Field(
        default="", description="Temporal's address as nodes reach it, which the API tells them; empty: the API's own."
    )
    node_providers: list[Literal[Provider.LOCAL, Provider.DOCKER]] = Field(
        default=[Provider.LOCAL],
        min_length=1,
        description="JSON; where this node's workspaces come from: `local`, and `docker` on a node that is root.",
    )
    node_secrets_file: Path | None = Field(default=None, description="The node's 0600 file of secrets.")
    node_presets: dict[str, list[str]] = Field(default={}, description="JSON; agent presets as argv templates.")
    node_allow_file_urls: bool = Field(default=False, description="Whether `file://` repositories may be cloned.")
    node_pass_env: list[str] = Field(default=[], description="Names of the node's environment that workspaces get.")

    containers: Containers = Containers()
    budgets: Budgets = Budgets()
    step_retry: StepRetry = StepRetry()
    limits: Limits = Limits()
    supervision: Supervision = Supervision()
    placement: Placement = Placement()
    provisioning: Provisioning = Provisioning()
    retention: Retention = Retention()
    webhooks: Webhooks = Webhooks()
    health: Thresholds = Thresholds()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read arguments, then the environment, then the folder of secrets if there is one; no `.env` file."""
        del dotenv_settings, file_secret_settings
        folder = os.environ.get(SECRETS_DIR)
        files = (SecretsSettingsSource(settings_cls, secrets_dir=folder),) if folder else ()
        return init_settings, env_settings, *files

    @field_validator("metrics_port", mode="before")
    @classmethod
    def _none_if_empty(cls, port: Any) -> Any:
        return None if port == "" else port

    @field_validator("payload_keys")
    @classmethod
    def _usable(cls, keys: SecretStr) -> SecretStr:
        payload_keys(keys.get_secret_value())
        return keys

    @field_validator("webhook_keys")
    @classmethod
    def _signing(cls, keys: SecretStr) -> SecretStr:
        SigningKeys.parse(keys.get_secret_value())
        return keys

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        found = inconsistencies(
            self.policy, callback_token=self.callback_token, stuck_after=self.stuck_after, prefix=PREFIX
        )
        if not (self.metrics_token.get_secret_value() or _loopback(self.metrics_host)):
            found.append(f"{PREFIX}METRICS_HOST {self.metrics_host} needs {PREFIX}METRICS_TOKEN: it is not loopback")
        if found:
            raise ValueError("; ".join(found))
        return self

    @property
    def policy(self) -> Policy:
        """What a TaskRunner gets with its input."""
        return Policy(
            budgets=self.budgets,
            step_retry=self.step_retry,
            limits=self.limits,
            supervision=self.supervision,
            callback_url=self.public_url,
        )

    @property
    def public_url(self) -> str:
        """The API's address as workspaces reach it."""
        return self.url or f"http://{self.host}:{self.port}"


def _loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
