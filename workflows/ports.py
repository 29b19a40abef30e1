"""The ports: what a TaskRunner asks of the world. `activities/` and tests implement them.

Each method is an activity; an implementation repeats the decorator. A workflow calls
`workflow.execute_activity_method(MirrorActivities.flush, …)`, so no SQL or HTTP library enters the sandbox.
"""

from abc import ABC, abstractmethod

from temporalio import activity

from domain.messages import (
    Acknowledgement,
    Activity,
    ActivityQuery,
    AgentExit,
    AgentOrder,
    AgentStarted,
    Answer,
    AttachmentOrder,
    AttemptRef,
    Conclusion,
    Flush,
    Held,
    MakeNode,
    NodeChoice,
    NodeMade,
    NodeQuery,
    NodeWait,
    NodeWaitAnswer,
    Released,
    Reservation,
    ReservationAnswer,
    SlotWait,
    SlotWaitAnswer,
    WorkspaceFacts,
    WorkspaceOrder,
    WorkspaceRef,
)
from domain.reconcile import ListOrder, NodeWorkspaces, Orphans, Report, SweepOrder
from domain.run import (
    Barrier,
    BarrierAnswer,
    Cancels,
    CancelsAnswer,
    Findings,
    Questions,
    RunAnswer,
    RunFlush,
    Starts,
    StartsAnswer,
)


class MirrorActivities(ABC):
    """Writes of the mirror, on the control worker."""

    @activity.defn
    @abstractmethod
    async def flush(self, flush: Flush) -> Answer:
        """Append events and bring the row up to date, if this attempt may still write."""

    @activity.defn
    @abstractmethod
    async def conclude(self, conclusion: Conclusion) -> Answer:
        """Write the attempt's end, release what it held, store the next attempt's start: one transaction."""

    @activity.defn
    @abstractmethod
    async def read_activity(self, query: ActivityQuery) -> Activity:
        """Say when a workspace last had output or progress, and when it was last heard at all."""


class PlacementActivities(ABC):
    """Where an attempt works, on the control worker."""

    @activity.defn
    @abstractmethod
    async def select_node(self, query: NodeQuery) -> NodeChoice:
        """Choose a node with a free slot that nobody waits for: preferred, else warm, else least loaded."""

    @activity.defn
    @abstractmethod
    async def wait_for_slot(self, wait: SlotWait) -> SlotWaitAnswer:
        """Enter the queue of waiters; a slot that is free by now is granted at once."""

    @activity.defn
    @abstractmethod
    async def wait_for_node(self, wait: NodeWait) -> NodeWaitAnswer:
        """Enter the wait for a node to report in, or for a slot that is free elsewhere before."""

    @activity.defn
    @abstractmethod
    async def reserve_workspace(self, reservation: Reservation) -> ReservationAnswer:
        """Reserve slot and workspace, write the ledger's intents, delegate the task."""


class RunActivities(ABC):
    """What a RunOrchestrator asks of the mirror, on the control worker."""

    @activity.defn
    @abstractmethod
    async def flush_run(self, flush: RunFlush) -> RunAnswer:
        """Append events and bring the run's row up to date, if this attempt of it may still write."""

    @activity.defn
    @abstractmethod
    async def start_members(self, starts: Starts) -> StartsAnswer:
        """Make tasks with their start intents, or queue the next attempts of those that are there."""

    @activity.defn
    @abstractmethod
    async def find_out(self, questions: Questions) -> Findings:
        """Say of edges whether their conditions hold, of fan-outs how many children they have."""

    @activity.defn
    @abstractmethod
    async def barrier(self, barrier: Barrier) -> BarrierAnswer:
        """Merge the results of a superstep into the run's state, once, and store the commands among them."""

    @activity.defn
    @abstractmethod
    async def cancel_tasks(self, cancels: Cancels) -> CancelsAnswer:
        """Ask the run's open tasks to cancel themselves, some at a time."""


class LedgerActivities(ABC):
    """What an attempt that has ended still holds, on the control worker."""

    @activity.defn
    @abstractmethod
    async def held(self, attempt: AttemptRef) -> Held:
        """Say which workspaces are to be destroyed; nothing of an attempt that is live."""

    @activity.defn
    @abstractmethod
    async def release(self, attempt: AttemptRef) -> Released:
        """Release ledger entries and slots, and grant those to who waits; nothing of an attempt that is live."""


class ReconcileActivities(ABC):
    """The safety net, on the control worker."""

    @activity.defn
    @abstractmethod
    async def sweep(self, order: SweepOrder) -> Report:
        """Compare rows with workflows, and the ledger with its owners; mend what disagrees."""

    @activity.defn
    @abstractmethod
    async def orphans(self, found: Orphans) -> Orphans:
        """Say which of a node's workspaces nobody owns."""


class FleetActivities(ABC):
    """Nodes that are made for those who wait, on the control worker."""

    @activity.defn
    @abstractmethod
    async def make_node(self, order: MakeNode) -> NodeMade:
        """Make a node, or find that it was made."""


class NodeActivities(ABC):
    """Effects on a node, on its own queues. Every one may be called again with the same argument."""

    @activity.defn
    @abstractmethod
    async def create_workspace(self, order: WorkspaceOrder) -> Acknowledgement:
        """Make the workspace and start the program in it that prepares it and calls back."""

    @activity.defn
    @abstractmethod
    async def inspect_workspace(self, ref: WorkspaceRef) -> WorkspaceFacts:
        """Say whether the node has this workspace."""

    @activity.defn
    @abstractmethod
    async def transfer_attachment(self, order: AttachmentOrder) -> Acknowledgement:
        """Put one attachment into the workspace."""

    @activity.defn
    @abstractmethod
    async def start_agent(self, order: AgentOrder) -> AgentStarted:
        """Start the command or agent of one turn, or adopt the one that an earlier try started."""

    @activity.defn
    @abstractmethod
    async def supervise_agent(self, order: AgentOrder) -> AgentExit:
        """Heartbeat while the agent runs; return how it ended."""

    @activity.defn
    @abstractmethod
    async def destroy_workspace(self, ref: WorkspaceRef) -> Acknowledgement:
        """Stop every process of the workspace and remove its files; a workspace that is gone is no error."""

    @activity.defn
    @abstractmethod
    async def list_workspaces(self, order: ListOrder) -> list[NodeWorkspaces]:
        """Return the workspaces that the node has, by provider."""
