"""The numbers: defaults of the contract, and sets of them that contradict each other."""

import re
from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from domain.lifecycle import Step
from domain.policy import Budgets, Policy, StepRetry, Supervision, inconsistencies, outlived
from domain.spec import Timeouts

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
TOKEN, STUCK = 144 * HOUR, HOUR


def found(policy: Policy, **numbers: timedelta) -> list[str]:
    """Return the sentences, with the environment's prefix."""
    return inconsistencies(policy, **({"callback_token": TOKEN, "stuck_after": STUCK} | numbers), prefix="X_")


def test_the_defaults_agree_with_each_other() -> None:
    """No sentence."""
    assert found(Policy()) == []


def test_the_budgets_are_the_contracts() -> None:
    """Section 3 of the contract, number by number."""
    budgets, retry, supervision = Budgets(), StepRetry(), Supervision()
    assert budgets.model_dump() == {
        "waiting_for_node_capacity": 2 * HOUR,
        "node_provisioning": 15 * MINUTE,
        "node_agent_ready": 15 * MINUTE,
        "workspace_dispatch": 10 * MINUTE,
        "workspace_ready": 30 * MINUTE,
        "attachment_transfer": MINUTE,
        "running_soft": 4 * HOUR,
        "running": 8 * HOUR,
        "running_absolute": 24 * HOUR,
        "running_idle": None,
        "awaiting_followup": 24 * HOUR,
        "paused": 72 * HOUR,
        "cleanup": 10 * MINUTE,
    }
    assert (retry.tries, retry.first_delay, retry.longest_delay) == (3, timedelta(seconds=5), MINUTE)
    assert supervision.lease < supervision.lost_after == 180 * timedelta(seconds=1)


@pytest.mark.parametrize(
    ("policy", "numbers", "sentence"),
    [
        (
            Policy(budgets=Budgets(running_soft=9 * HOUR)),
            {},
            "X_BUDGETS__RUNNING_SOFT (9:00:00) must not exceed X_BUDGETS__RUNNING (8:00:00)",
        ),
        (
            Policy(budgets=Budgets(running=25 * HOUR)),
            {},
            "X_BUDGETS__RUNNING (1 day, 1:00:00) must not exceed X_BUDGETS__RUNNING_ABSOLUTE (1 day, 0:00:00)",
        ),
        (
            Policy(supervision=Supervision(heartbeat=120 * timedelta(seconds=1))),
            {},
            "X_SUPERVISION__HEARTBEAT (0:02:00) must be shorter than X_SUPERVISION__LEASE (0:02:00)",
        ),
        (
            Policy(supervision=Supervision(lease=3 * MINUTE)),
            {},
            "X_SUPERVISION__LEASE (0:03:00) must be shorter than X_SUPERVISION__LOST_AFTER (0:03:00)",
        ),
        (
            Policy(supervision=Supervision(cancel=3 * MINUTE)),
            {},
            "X_SUPERVISION__CANCEL (0:03:00) must be shorter than X_SUPERVISION__LOST_AFTER (0:03:00)",
        ),
        (
            Policy(step_retry=StepRetry(first_delay=2 * MINUTE)),
            {},
            "X_STEP_RETRY__FIRST_DELAY (0:02:00) must not exceed X_STEP_RETRY__LONGEST_DELAY (0:01:00)",
        ),
        (
            Policy(),
            {"callback_token": HOUR},
            (
                "X_CALLBACK_TOKEN (1:00:00) must be longer than X_BUDGETS__WORKSPACE_DISPATCH"
                " + X_BUDGETS__WORKSPACE_READY + X_BUDGETS__RUNNING_ABSOLUTE"
                " + X_BUDGETS__AWAITING_FOLLOWUP + X_BUDGETS__PAUSED (5 days, 0:40:00)"
            ),
        ),
        (
            Policy(budgets=Budgets(running_idle=8 * HOUR)),
            {},
            "X_BUDGETS__RUNNING_IDLE (8:00:00) must be shorter than X_BUDGETS__RUNNING (8:00:00)",
        ),
        (
            Policy(budgets=Budgets(running_idle=15 * timedelta(seconds=1))),
            {},
            "X_SUPERVISION__HEARTBEAT (0:00:15) must be shorter than X_BUDGETS__RUNNING_IDLE (0:00:15)",
        ),
        (
            Policy(),
            {"stuck_after": MINUTE},
            (
                "X_STUCK_AFTER (0:01:00) must be longer than X_BUDGETS__WORKSPACE_DISPATCH + X_BUDGETS__WORKSPACE_READY"
                " + X_BUDGETS__ATTACHMENT_TRANSFER + X_BUDGETS__CLEANUP (0:51:00)"
            ),
        ),
    ],
)
def test_a_contradiction_names_its_settings(policy: Policy, numbers: dict[str, timedelta], sentence: str) -> None:
    """One rule violated alone is one sentence: the settings on both sides, prefixed, with their values."""
    assert found(policy, **numbers) == [sentence]


def test_every_name_in_a_sentence_is_a_setting() -> None:
    """All rules violated at once: each name leads to a field of the policy or is one of the two numbers."""
    worst = Policy(
        budgets=Budgets(running_soft=9 * HOUR, running=8 * HOUR, running_absolute=7 * HOUR, running_idle=2 * HOUR),
        supervision=Supervision(heartbeat=3 * HOUR, lease=2 * HOUR, lost_after=HOUR, cancel=HOUR),
        step_retry=StepRetry(first_delay=HOUR),
    )
    sentences = found(worst, callback_token=MINUTE, stuck_after=MINUTE)
    assert len(sentences) == 9
    for name in re.findall(r"X_([A-Z_]+)", " ".join(sentences)):
        group, _, field = name.lower().partition("__")
        assert name in {"CALLBACK_TOKEN", "STUCK_AFTER"} or field in type(getattr(worst, group)).model_fields


@pytest.mark.parametrize(
    ("timeouts", "fits"),
    [
        ({}, True),
        ({"running": timedelta(days=30)}, True),  # the absolute cap ends it before
        ({"running_absolute": timedelta(days=2), "awaiting_followup": 23 * HOUR}, True),
        ({"running_absolute": timedelta(days=3)}, False),
        ({"awaiting_followup": timedelta(days=2)}, False),
        ({"workspace_dispatch": timedelta(days=1), "workspace_ready": timedelta(days=1)}, False),
    ],
)
def test_a_tasks_timeouts_are_within_a_callback_tokens_life(timeouts: dict[str, timedelta], fits: bool) -> None:  # noqa: FBT001
    """One sentence that names both, for a body whose workspace would have to call with a token that is over."""
    reason = outlived(Budgets(), Timeouts(**timeouts), callback_token=TOKEN, prefix="X_")
    assert (reason is None) is fits
    if reason:
        assert reason.startswith(
            "workspace_dispatch + workspace_ready + running_absolute + awaiting_followup + paused ("
        )
        assert reason.endswith(") must be shorter than X_CALLBACK_TOKEN (6 days, 0:00:00)")


def test_a_tasks_own_budgets_win() -> None:
    """What the body sets replaces the setting; what it leaves out stays."""
    budgets = Budgets().overridden(Timeouts(running=timedelta(minutes=5)))
    assert (budgets.running, budgets.cleanup) == (5 * MINUTE, 10 * MINUTE)


def test_every_timeout_of_a_body_is_a_budget() -> None:
    """No field of `timeouts` is without effect."""
    assert set(Timeouts.model_fields) <= set(Budgets.model_fields)


def test_every_budget_belongs_to_a_step() -> None:
    """Its name is a step's, or that of a cap beside `running`: soft, absolute, idle; holds have one in any step."""
    caps = {"running_soft", "running_absolute", "running_idle", "paused"}
    assert set(Budgets.model_fields) - caps <= {str(step) for step in Step}


@pytest.mark.parametrize("change", [{"tries": 0}, {"first_delay": 0}, {"longest_delay": -1}])
def test_a_number_that_makes_no_sense_is_refused(change: dict[str, Any]) -> None:
    """At least one try; durations are longer than zero."""
    with pytest.raises(ValidationError):
        StepRetry.model_validate(change)


def test_a_policy_cannot_be_changed() -> None:
    """It is part of a workflow's input: what was read is what is replayed."""
    with pytest.raises(ValidationError, match="frozen"):
        Policy().budgets.running = HOUR  # type: ignore[misc]
