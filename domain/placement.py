"""How nodes are compared: what a node's measured shares of processor and memory come to."""

from typing import Final

from pydantic import BaseModel, ConfigDict, Field

# Memory weighs more: who runs out of it dies, who runs out of processor waits.
CPU_WEIGHT: Final = 0.4
MEMORY_WEIGHT: Final = 0.6
# More than any node that is not busy can come to.
BUSY: Final = 1.0


class Placement(BaseModel):
    """From where on a node counts as busy; a busy one is chosen only if no other has a free slot."""

    model_config = ConfigDict(frozen=True)

    cpu_high: float = Field(
        default=0.9, ge=0, le=1, description="The share of its processors above which a node is busy."
    )
    memory_high: float = Field(
        default=0.85,
        ge=0,
        le=1,
        description="The share of its memory above which a node is busy: sooner than it swaps.",
    )

    def load(self, *, cpu: float | None, memory: float | None) -> float | None:
        """Return 0.4 of the one and 0.6 of the other, one more for a busy node; None for one that measures nothing."""
        if cpu is None or memory is None:
            return None
        busy = cpu > self.cpu_high or memory > self.memory_high
        return CPU_WEIGHT * cpu + MEMORY_WEIGHT * memory + (BUSY if busy else 0.0)
