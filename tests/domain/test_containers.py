"""The rules of a node for its containers."""

import pytest
from pydantic import ValidationError

from domain.containers import Containers
from domain.spec import Resources

DIGEST = "reg.example/team/app@sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("image", "allowed"),
    [
        ("default:1", True),
        ("default:2", False),
        (DIGEST, True),
        ("reg.example/team/app:latest", False),
        ("evil.example/reg.example/team/app@sha256:0", False),
        ("tools/python:3.12", True),
        ("tools/python", False),
    ],
)
def test_an_image_is_allowed_by_name_or_pattern(image: str, *, allowed: bool) -> None:
    """The node's own, and what a pattern matches as a whole."""
    rules = Containers(image="default:1", images=["reg.example/team/*@sha256:*", "tools/python:3.*"])
    assert rules.allows(image) is allowed


def test_a_task_replaces_each_limit_by_itself() -> None:
    """What it does not name stays the node's; processor time has no default."""
    limits = Containers(cpus=1, memory_mb=100, processes=50, disk_mb=20).limits(Resources(memory_mb=300, cpu_seconds=5))
    assert limits == Resources(cpus=1, memory_mb=300, processes=50, disk_mb=20, cpu_seconds=5)


def test_a_task_may_have_no_more_than_the_node_gives() -> None:
    """Each resource by itself; what is not named is not bounded, what is not asked for is not too much."""
    rules = Containers.model_validate({"most": {"memory_mb": 100, "cpus": 1}})
    assert rules.excess(Resources(memory_mb=101, cpus=1, processes=9999)) == ["memory_mb 101 (at most 100)"]
    assert rules.excess(Resources()) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"network": "host"},
        {"network": "container:other"},
        {"user": 0},
        {"engine": "tcp://192.0.2.1:2375"},
        {"pull": "always"},
        {"images": [""]},
        {"most": {"colour": 1}},
    ],
    ids=str,
)
def test_what_would_open_a_wall_is_no_rule(wrong: dict[str, object]) -> None:
    """The node's own network, another container's, root, an engine elsewhere."""
    with pytest.raises(ValidationError):
        Containers.model_validate(wrong)
