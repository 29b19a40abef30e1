"""What a caller asks for: the body of a task, with every rule that can be checked at the door."""

import re
from datetime import timedelta
from enum import StrEnum
from math import isfinite
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    model_validator,
)

from domain.durations import Span
from domain.errors import TRANSIENT_CATEGORIES, Category
from domain.lifecycle import Step, TaskStatus
from domain.names import AttachmentId, NodeId

NAME_LIMIT: Final = 200
PRIORITY_DEFAULT: Final = 3
DEPTH_LIMIT: Final = 64
# Messages that wait are carried through continue-as-new, in 2 MB beside a task's body of 1 MB.
FOLLOWUP_BYTES: Final = 256_000
LONGEST_BACKOFF: Final = timedelta(hours=1)


def _storable(value: str) -> str:
    """Refuse what neither an argv nor PostgreSQL can hold."""
    if "\x00" in value:
        raise ValueError("must not contain a NUL character")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("must be Unicode text: half a surrogate pair is none") from None
    return value


def _storable_json(value: Any) -> Any:
    """Refuse what JSON in PostgreSQL cannot hold; without recursion, because the depth is what is in doubt."""
    level, depth = [value], 0
    while level:
        below: list[Any] = []
        for part in level:
            if isinstance(part, str):
                _storable(part)
            elif isinstance(part, float) and not isfinite(part):
                raise ValueError("must not contain NaN or an infinity: JSON has neither")
            elif isinstance(part, dict):
                below += [*part.keys(), *part.values()]
            elif isinstance(part, list):
                below += part
        level, depth = below, depth + 1
        if depth > DEPTH_LIMIT:
            raise ValueError(f"must not be nested deeper than {DEPTH_LIMIT} levels")
    return value


def _executable(argv: list[str]) -> list[str]:
    if not argv[0].strip():
        raise ValueError("must begin with the name of a program")
    return argv


def _below_workspace(glob: str) -> str:
    if glob.startswith(("/", "~")) or ".." in glob.split("/"):
        raise ValueError("must be relative to the workspace and stay in it")
    return glob


STORABLE: Final = AfterValidator(_storable)
Text = Annotated[str, STORABLE]
Argument = Annotated[str, StringConstraints(max_length=131_072), STORABLE]
Argv = Annotated[list[Argument], Field(min_length=1, max_length=1024), AfterValidator(_executable)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=NAME_LIMIT, strip_whitespace=True), STORABLE]
Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128)]
Label = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._/-]+$", max_length=63)]
LabelValue = Annotated[str, StringConstraints(max_length=253), STORABLE]
Glob = Annotated[str, StringConstraints(min_length=1, max_length=1024), STORABLE, AfterValidator(_below_workspace)]
Json = Annotated[JsonValue, BeforeValidator(_storable_json)]
Flag = Annotated[bool, Field(strict=True)]
Number = Annotated[int, Field(strict=True)]

IDENTITY: Final = StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)

URL_SCHEMES: Final = ("https", "ssh", "git", "file")
# What git check-ref-format(1) refuses in a name, and what git reads as an option, a range or a refspec.
_NO_REF: Final = re.compile(r"^[-+/]|[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|^@$|/$|\.$|\.lock$|(^|/)\.")


def _repository_url(url: str) -> str:
    """Accept https, ssh, git, file and scp-like addresses; refuse options and transport helpers (`ext::`)."""
    if url.startswith("-") or "::" in url.split("/", 1)[0]:
        raise ValueError("must be an https, ssh, git or file URL; transport helpers such as ext:: are refused")
    if any(character.isspace() or not character.isprintable() for character in url):
        raise ValueError("must not contain white space or control characters")
    parts = urlsplit(url)
    if parts.scheme in URL_SCHEMES and "://" in url:
        if parts.password:
            raise ValueError("must not hold a password; name a secret in `credential`")
        if not parts.path.strip("/") or (parts.scheme != "file" and not parts.hostname):
            raise ValueError("must name a host and a path")
        host = parts.hostname or ""
    else:
        user_and_host, colon, path = url.partition(":")
        user, at, host = user_and_host.partition("@")
        if not (user and at and host and colon and path) or "/" in user_and_host:
            raise ValueError("must be an https, ssh, git or file URL")
    if host.startswith("-"):
        raise ValueError("must not have a host that git would read as an option")
    return url


def _ref(ref: str) -> str:
    if _NO_REF.search(ref):
        raise ValueError("must be the name of a branch or a tag, or a commit")
    return ref


class Body(BaseModel):
    """The base of what callers send: unknown fields are errors."""

    model_config = ConfigDict(extra="forbid")


class Repo(Body):
    """A git repository, cloned into the workspace before `setup`."""

    url: Annotated[str, StringConstraints(min_length=1, max_length=2048), STORABLE, AfterValidator(_repository_url)]
    ref: Annotated[str, StringConstraints(min_length=1, max_length=255), STORABLE, AfterValidator(_ref)] | None = None
    credential: Identifier | None = Field(default=None, description="The name of a secret on the node.")


class Agent(Body):
    """A coding agent: a preset of the node's settings, and what it shall do."""

    preset: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64)]
    prompt: Annotated[str, StringConstraints(min_length=1, max_length=500_000), STORABLE]


class Provider(StrEnum):
    """Where workspaces come from."""

    LOCAL = "local"
    DOCKER = "docker"
    EXTERNAL = "external"


class Resources(Body):
    """Limits of the workspace; None leaves the node's own default."""

    cpus: Annotated[float, Field(gt=0, le=256, strict=True)] | None = None
    cpu_seconds: Annotated[Number, Field(ge=1, le=31_622_400)] | None = None
    memory_mb: Annotated[Number, Field(ge=16, le=2**30)] | None = None
    disk_mb: Annotated[Number, Field(ge=1, le=2**30)] | None = None
    processes: Annotated[Number, Field(ge=1, le=2**22)] | None = None


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
    running_idle: Span | None = None
    awaiting_followup: Span | None = None
    cleanup: Span | None = None


class Retry(Body):
    """When and how often a failed attempt is followed by another."""

    max_attempts: Annotated[Number, Field(ge=1, le=100)] = 4
    on: frozenset[Category] = TRANSIENT_CATEGORIES
    backoff: Span = timedelta(seconds=5)

    def helps_against(self, category: Category, *, retryable: bool) -> bool:
        """Return whether a failure is followed by another attempt while a try is left: `on` has to name its category.

        Of the categories that are retried by default a failure must be retryable too. Whoever names another one, such
        as `agent` for the exit code of a command, knows that a later attempt may come to another end.
        """
        expected = category not in TRANSIENT_CATEGORIES and category is not Category.CANCELLED
        return category in self.on and (retryable or expected)

    def delay_after(self, attempt: int) -> timedelta:
        """Return how long after the failure of this attempt the next one starts.

        It doubles with each attempt up to an hour, or stays at `backoff` if that is longer.
        """
        longest = max(self.backoff, LONGEST_BACKOFF)
        return min(self.backoff * (1 << min(attempt - 1, 20)), longest)


class KeepWorkspace(Body):
    """Whether the workspace stays after the attempt, and for how long."""

    on: Literal["never", "failure", "always"] = "never"
    for_: Span = Field(default=timedelta(hours=1), alias="for")
    model_config = ConfigDict(extra="forbid", populate_by_name=True, serialize_by_alias=True)

    def after(self, outcome: TaskStatus) -> bool:
        """Return whether it stays after this end: a failure is every end from which somebody may retry."""
        return self.on == "always" or (self.on == "failure" and outcome is not TaskStatus.COMPLETED)


def _can_be_held(step: Step) -> Step:
    if step is Step.CLEANUP:
        raise ValueError("must not be cleanup, which is never held; `after` awaiting_followup comes before it")
    return step


Holdable = Annotated[list[Annotated[Step, AfterValidator(_can_be_held)]], Field(max_length=len(Step))]


class Breakpoints(Body):
    """Where the task holds until somebody resumes it; `each_step` is after every step that had something to do."""

    before: Holdable = []
    after: Holdable = []
    each_step: Flag = False

    def __bool__(self) -> bool:
        """Whether there is any."""
        return self.each_step or bool(self.before or self.after)


class TaskSpec(Body):
    """The body of `POST /v1/tasks`."""

    name: Name | None = None
    repo: Repo | None = None
    setup: Annotated[list[Argv], Field(max_length=64)] = []
    command: Argv | None = None
    agent: Agent | None = None
    env: Annotated[dict[Identifier, Argument], Field(max_length=256)] = {}
    secrets: Annotated[list[Identifier], Field(max_length=64)] = []
    input: Json = None
    attachments: Annotated[list[Annotated[AttachmentId, IDENTITY]], Field(max_length=64)] = []
    artifacts: Annotated[list[Glob], Field(max_length=64)] = []
    provider: Provider = Provider.LOCAL
    image: Annotated[str, StringConstraints(min_length=1, max_length=512), STORABLE] | None = None
    node_labels: Annotated[dict[Label, LabelValue], Field(max_length=32)] = {}
    preferred_node: Annotated[NodeId, IDENTITY] | None = None
    resources: Resources = Resources()
    timeouts: Timeouts = Timeouts()
    retry: Retry = Retry()
    priority: Annotated[Number, Field(ge=1, le=5)] = PRIORITY_DEFAULT
    followup: Flag = False
    keep_workspace: KeepWorkspace = KeepWorkspace()
    breakpoints: Breakpoints = Breakpoints()
    labels: Annotated[dict[Label, LabelValue], Field(max_length=32)] = {}

    @model_validator(mode="after")
    def _one_of_command_and_agent(self) -> Self:
        if (self.command is None) == (self.agent is None):
            raise ValueError("exactly one of `command` and `agent` is needed")
        return self

    @model_validator(mode="after")
    def _image_of_a_container(self) -> Self:
        if self.image is not None and self.provider is not Provider.DOCKER:
            raise ValueError(f"`image` is for the provider docker; this task's is {self.provider}")
        return self

    @model_validator(mode="after")
    def _reserved_environment(self) -> Self:
        taken = [name for name in (*self.env, *self.secrets) if name.startswith("TASKRUNNER_")]
        if taken:
            raise ValueError(f"names that start with TASKRUNNER_ are reserved: {', '.join(taken)}")
        twice = sorted(set(self.env) & set(self.secrets))
        if twice:
            raise ValueError(f"both in `env` and in `secrets`: {', '.join(twice)}")
        return self

    @property
    def title(self) -> str:
        """The task's name, or the first words of what it runs."""
        words = " ".join(self.command) if self.command else self.agent.prompt if self.agent else ""
        return self.name or " ".join(words.split())[:80] or "task"


def json_of(value: BaseModel) -> Any:
    """Return a model as plain JSON values, without what the caller left out."""
    return value.model_dump(mode="json", exclude_defaults=True, by_alias=True)
