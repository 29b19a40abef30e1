"""The provider port: who makes workspaces on a node, and lets things be done in them."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from domain.messages import Acknowledgement, AgentExit, AgentOrder, AgentStarted, WorkspaceFacts, WorkspaceOrder
from domain.names import WorkspaceId


@dataclass(frozen=True, kw_only=True)
class Grant:
    """A callback token, and the address below which it opens the callbacks of its workspace."""

    token: str = field(repr=False)
    callback_url: str


class WorkspaceProvider(ABC):
    """Makes, uses and destroys workspaces, each known by its id.

    Every method may be called again with the same argument, also at the same time and by another process of the same
    node: the second call finds what the first one did. Nothing is kept in memory, so that a node which was killed and
    came back goes on where it was. All raise `domain.errors.Failure`.
    """

    @abstractmethod
    def check(self, order: WorkspaceOrder) -> None:
        """Refuse what cannot work here (a missing secret, an unknown preset) before anything is made."""

    @abstractmethod
    async def create(self, order: WorkspaceOrder, grant: Grant) -> Acknowledgement:
        """Make the workspace and start what prepares it: that one calls `ready` or `failed`."""

    @abstractmethod
    async def inspect(self, workspace_id: WorkspaceId) -> WorkspaceFacts:
        """Say whether the workspace is here, and what runs in it."""

    @abstractmethod
    async def transfer_attachment(
        self, workspace_id: WorkspaceId, attachment_id: str, name: str, content: AsyncIterator[bytes]
    ) -> Acknowledgement:
        """Put a file into the workspace's attachments directory; all of it or nothing."""

    @abstractmethod
    async def start_agent(self, agent: AgentOrder, grant: Grant) -> AgentStarted:
        """Start the command or agent of one turn, or adopt the one that was started before."""

    @abstractmethod
    async def wait_agent(self, agent: AgentOrder) -> AgentExit:
        """Return how the turn ended, as soon as it has; `lost` when it is gone without a word, and nothing lives on.

        May be cancelled at any time: that ends the waiting only.
        """

    @abstractmethod
    async def destroy(self, workspace_id: WorkspaceId, *, keep: bool = False) -> Acknowledgement:
        """End every process of the workspace and remove its files, unless they are to be kept.

        The id cannot be created again after that; a workspace that is not here is no error.
        """

    @abstractmethod
    async def list(self) -> list[WorkspaceId]:
        """Return the ids of all workspaces found here, kept ones too."""
