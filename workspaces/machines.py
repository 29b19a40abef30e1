"""The provider port for nodes: who makes machines that host workspaces, and takes them away again."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

from domain.names import NodeId


@dataclass(frozen=True, kw_only=True)
class Joining:
    """What a machine needs to become the node by whose id it is tagged."""

    node_id: NodeId
    slots: int
    labels: Mapping[str, str]
    token: str = field(repr=False)


class MachineProvider(ABC):
    """Makes machines, each known by its tag, the node's id.

    Every method may be called again with the same argument, by another process too: a machine whose making lost its
    reply is found by its tag. All raise OSError for what may pass.
    """

    @abstractmethod
    async def create(self, joining: Joining) -> None:
        """Make the machine, which joins by itself; one that has this tag is left as it is."""

    @abstractmethod
    async def find_by_tag(self, tag: NodeId) -> bool:
        """Say whether there is a machine with this tag."""

    @abstractmethod
    async def destroy(self, tag: NodeId) -> None:
        """Take the machine away with all that is on it; one that is not there is no error."""

    @abstractmethod
    async def list(self) -> list[NodeId]:
        """Return the tags of all machines, and of what is left of any."""
