"""From where on a number of the health report is a warning, and from where on it is critical; each with its reason."""

from datetime import timedelta

from pydantic import BaseModel, ConfigDict, Field

from domain.durations import Span


class Thresholds(BaseModel):
    """What the health report goes by. A number above its threshold is a reason; `…_CRITICAL` is the worse of two."""

    model_config = ConfigDict(frozen=True)

    window: Span = Field(
        default=timedelta(hours=1),
        description="How far back ends, retries and repairs count: long enough for a share, short enough to be now.",
    )
    quiet: Span = Field(
        default=timedelta(minutes=5),
        description="A task that is past its budget and has not moved for this long counts as stuck.",
    )
    stuck_warning: int = Field(default=0, ge=0, description="Stuck tasks: each should have been ended by its deadline.")
    stuck_critical: int = Field(default=20, ge=0, description="Stuck tasks: so many have one cause, and it goes on.")
    ended_at_least: int = Field(
        default=10, ge=1, description="Ends in the window below which a share of failures says nothing."
    )
    failed_warning: float = Field(
        default=0.1, ge=0, le=1, description="Share of failed among completed and failed: commands fail now and then."
    )
    failed_critical: float = Field(
        default=0.5, ge=0, le=1, description="Share of failed: when every other task fails it is not the commands."
    )
    tries_warning: float = Field(
        default=1.5, ge=1, description="Average tries of a task that ended: every other one needed a second."
    )
    exhausted_warning: int = Field(
        default=0, ge=0, description="Tasks that failed because no try was left: what is transient should have passed."
    )
    mirror_lag_warning: Span = Field(
        default=timedelta(seconds=2), description="95 % of writes reach the mirror sooner: it promises one second."
    )
    mirror_lag_critical: Span = Field(
        default=timedelta(seconds=30), description="Whoever reads the mirror then decides by what is over."
    )
    outbox_age_warning: Span = Field(
        default=timedelta(seconds=10),
        description="The longest that an intent or a callback is due and unsent: an intent is leased for 15 s at most.",
    )
    outbox_age_critical: Span = Field(
        default=timedelta(minutes=2), description="Nobody sends any more, or Temporal takes nothing."
    )
    lost_nodes_warning: int = Field(
        default=0, ge=0, description="Lost nodes: each should be back, or be said to be gone (`nodes drain --gone`)."
    )
    repairs_warning: int = Field(
        default=5, ge=0, description="Rows that the reconciler mended in the window; a few are an operator's own doing."
    )
    repairs_critical: int = Field(
        default=100, ge=0, description="Rows mended in the window: the mirror drifts from Temporal."
    )
    reaped_warning: int = Field(
        default=20, ge=0, description="Resources without an owner that were released in the window: attempts die."
    )
    sweep_age_warning: Span = Field(
        default=timedelta(minutes=2), description="Since the reconciler's last sweep: it should come twice a minute."
    )
    sweep_age_critical: Span = Field(
        default=timedelta(minutes=10), description="Since the last sweep: nothing is mended any more."
    )
    silence_warning: Span = Field(
        default=timedelta(minutes=2),
        description="Since a worker's last poll at Temporal: one poll lasts a minute. A node is silent then.",
    )
    problems_warning: int = Field(
        default=0, ge=0, description="Workflows that Temporal reports as unable to go on: each waits for a person."
    )
    problems_critical: int = Field(
        default=10, ge=0, description="So many cannot go on for one reason, most often the code that was deployed."
    )
