"""What a caller asks for: the body of a task, with every rule that can be checked at the door."""

from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, StringConstraints, model_validator

from domain.durations import Span
from domain.errors import TRANSIENT_CATEGORIES, Category
from domain.lifecycle import Step
from domain.names import AttachmentId, NodeId

NAME_LIMIT: Final = 200
PRIORITY_DEFAULT: Final = 3


def _no_nul(value: str) -> str:
    if "\x00" in value:
        raise ValueError("must not contain a NUL character")
    return value


Text = Annotated[str, AfterValidator(_no_nul)]
Argument = Annotated[Text, StringConstraints(max_length=131_072)]
Argv = Annotated[list[Argument], Field(min_length=1, max_length=1024)]
Name = Annotated[Text, StringConstraints(min_length=1, max_length=NAME_LIMIT, strip_whitespace=True)]
Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128)]
Label = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._/-]+$", max_length=63)]
LabelValue = Annotated[Text, StringConstraints(max_length=253)]
Glob = Annotated[Text, StringConstraints(min_length=1, max_length=1024)]

_SCP_LIKE: Final = "@"
URL_SCHEMES: Final = ("https", "ssh", "git", "file")


def _repository_url(url: str) -> str:
    """Accept https, ssh, git, file and scp-like addresses; refuse options and transport helpers (`ext::`)."""
    if url.startswith("-") or "::" in url.split("/", 1)[0]:
        raise ValueError("must be an https, ssh, git or file URL; transport helpers such as ext:: are refused")
    scheme = urlsplit(url).scheme
    if scheme in URL_SCHEMES and "://" in url:
        if urlsplit(url).password:
            raise ValueError("must not hold a password; name a secret in `credential`")
        return url
    host, colon, path = url.partition(":")
    if _SCP_LIKE in host and colon and path and "/" not in host:
        return url
    raise ValueError("must be an https, ssh, git or file URL")


def _ref(ref: str) -> str:
    if ref.startswith("-") or any(character.isspace() for character in ref):
        raise ValueError("must be a branch, a tag or a commit")
    return ref


class Body(BaseModel):
    """The base of what callers send: unknown fields are errors."""

    model_config = ConfigDict(extra="forbid")


class Repo(Body):
    """A git repository, cloned into the workspace before `setup`."""

    url: Annotated[Text, StringConstraints(min_length=1, max_length=2048), AfterValidator(_repository_url)]
    ref: Annotated[Text, StringConstraints(min_length=1, max_length=255), AfterValidator(_ref)] | None = None
    credential: Identifier | None = Field(default=None, description="The name of a secret on the node.")


class Agent(Body):
    """A coding agent: a preset of the node's settings, and what it shall do."""

    preset: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64)]
    prompt: Annotated[Text, StringConstraints(min_length=1, max_length=500_000)]


class Provider(StrEnum):
    """Where workspaces come from."""

    LOCAL = "local"
    DOCKER = "docker"
    EXTERNAL = "external"


class Resources(Body):
    """Limits of the workspace; None leaves the node's own default."""

    cpus: Annotated[float, Field(gt=0, le=256)] | None = None
    cpu_seconds: Annotated[int, Field(gt=0)] | None = None
    memory_mb: Annotated[int, Field(ge=16)] | None = None
    disk_mb: Annotated[int, Field(ge=1)] | None = None
    processes: Annotated[int, Field(ge=1)] | None = None


class Timeouts(Body):
    """A task's own budgets, over the defaults of the settings; seconds or ISO-8601."""

    waiting_for_node_capacity: Span | None = None
    node_agent_ready: Span | None = None
    workspace_dispatch: Span | None = None
    workspace_ready: Span | None = None
    attachment_transfer: Span | None = None
    running_soft: Span | None = None
    running: Span | None = None
    running_absolute: Span | None = None
    awaiting_followup: Span | None = None
    cleanup: Span | None = None


class Retry(Body):
    """When and how often a failed attempt is followed by another."""

    max_attempts: Annotated[int, Field(ge=1, le=100)] = 4
    on: frozenset[Category] = TRANSIENT_CATEGORIES
    backoff: Span = timedelta(seconds=5)


class KeepWorkspace(Body):
    """Whether the workspace stays after the attempt, and for how long."""

    on: Literal["never", "failure", "always"] = "never"
    for_: Span = Field(default=timedelta(hours=1), alias="for")
    model_config = ConfigDict(extra="forbid", populate_by_name=True, serialize_by_alias=True)


class Breakpoints(Body):
    """Where the task holds until somebody resumes it."""

    before: list[Step] = []
    after: list[Step] = []
    each_step: bool = False


class TaskSpec(Body):
    """The body of `POST /v1/tasks`."""

    name: Name | None = None
    repo: Repo | None = None
    setup: Annotated[list[Argv], Field(max_length=64)] = []
    command: Argv | None = None
    agent: Agent | None = None
    env: Annotated[dict[Identifier, Argument], Field(max_length=256)] = {}
    secrets: Annotated[list[Identifier], Field(max_length=64)] = []
    input: JsonValue = None
    attachments: Annotated[list[AttachmentId], Field(max_length=64)] = []
    artifacts: Annotated[list[Glob], Field(max_length=64)] = []
    provider: Provider = Provider.LOCAL
    image: Annotated[Text, StringConstraints(min_length=1, max_length=512)] | None = None
    node_labels: Annotated[dict[Label, LabelValue], Field(max_length=32)] = {}
    preferred_node: NodeId | None = None
    resources: Resources = Resources()
    timeouts: Timeouts = Timeouts()
    retry: Retry = Retry()
    priority: Annotated[int, Field(ge=1, le=5)] = PRIORITY_DEFAULT
    followup: bool = False
    keep_workspace: KeepWorkspace = KeepWorkspace()
    breakpoints: Breakpoints = Breakpoints()
    labels: Annotated[dict[Label, LabelValue], Field(max_length=32)] = {}

    @model_validator(mode="after")
    def _one_of_command_and_agent(self) -> Self:
        if (self.command is None) == (self.agent is None):
            raise ValueError("exactly one of `command` and `agent` is needed")
        return self

    @model_validator(mode="after")
    def _reserved_environment(self) -> Self:
        taken = [name for name in (*self.env, *self.secrets) if name.startswith("TASKRUNNER_")]
        if taken:
            raise ValueError(f"names that start with TASKRUNNER_ are reserved: {', '.join(taken)}")
        return self

    @property
    def title(self) -> str:
        """The task's name, or the first words of what it runs."""
        words = " ".join(self.command) if self.command else self.agent.prompt if self.agent else ""
        return self.name or " ".join(words.split())[:80] or "task"


def json_of(value: BaseModel) -> Any:
    """Return a model as plain JSON values, without what the caller left out."""
    return value.model_dump(mode="json", exclude_defaults=True, by_alias=True)
