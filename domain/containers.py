"""How a node keeps workspaces in containers: which images, how much of the machine, which way out."""

from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from domain.spec import Resources

MB = 1_000_000


class Containers(BaseModel):
    """The node's rules. A task's `resources` replace the limits, each by itself."""

    model_config = ConfigDict(frozen=True)

    engine: str = Field(
        default="unix:///var/run/docker.sock",
        pattern="^unix:///",
        description="The engine's socket; on this machine, because the workspaces' files are.",
    )
    image: str = Field(default="", description="The image of tasks that name none; it needs Python 3.9 or later.")
    images: list[Annotated[str, StringConstraints(min_length=1)]] = Field(
        default=[],
        description="JSON; the images that a task may name beside it, as patterns: `reg.example/team/*@sha256:*` asks "
        "for digests.",
    )
    pull: Literal["never", "missing"] = Field(
        default="never", description="Whether an allowed image that is not here is pulled, or is the task's fault."
    )
    user: int = Field(
        default=10001, ge=1, lt=2**31, description="The user and group, by number, of everything in a container."
    )
    cpus: float = Field(default=2, gt=0, description="Processors that a workspace may use at once.")
    memory_mb: int = Field(
        default=2048, ge=16, description="Memory of a workspace, `/tmp` and `/dev/shm` included; no swap beside it."
    )
    processes: int = Field(default=512, ge=16, description="Processes and threads of a workspace at once.")
    disk_mb: int = Field(
        default=10_000, ge=16, description="All files of a workspace; taken from the node's disk as they are written."
    )
    most: dict[Literal["cpus", "memory_mb", "processes", "disk_mb"], float] = Field(
        default={}, description="JSON; the most that a task may ask for in its `resources`; what is not named: any."
    )
    tmp_mb: int = Field(default=64, ge=1, description="`/tmp`, in memory.")
    network: str = Field(
        default="",
        pattern=r"^[A-Za-z0-9_.-]*$",
        description="A network of the engine that workspaces are in; empty: none, and only the API can be reached.",
    )

    @field_validator("network")
    @classmethod
    def _not_the_nodes(cls, network: str) -> str:
        if network == "host":
            raise ValueError("must not be the node's own network")
        return network

    def allows(self, image: str) -> bool:
        """Whether a task may have this image."""
        return image == self.image or any(fnmatchcase(image, pattern) for pattern in self.images)

    def excess(self, asked: Resources) -> list[str]:
        """Return a phrase for each resource of which a task asks for more than it may have."""
        return [
            f"{name} {wanted:g} (at most {most:g})"
            for name, most in self.most.items()
            if (wanted := getattr(asked, name)) is not None and wanted > most
        ]

    def limits(self, asked: Resources) -> Resources:
        """Return what a workspace may use: what the task asks for, and else the node's own."""
        own = {name: getattr(self, name) for name in ("cpus", "memory_mb", "processes", "disk_mb")}
        return asked.model_copy(update={name: value for name, value in own.items() if getattr(asked, name) is None})
