"""Walks through a directed graph, which is given as what each member leads to; none is recursive."""

from collections import deque
from collections.abc import Mapping, Sequence

Neighbours = Mapping[str, Sequence[str]]


def reached(first: str, neighbours: Neighbours) -> dict[str, str]:
    """Return what one or more steps lead to, nearest first, each with the member before it on a shortest way."""
    came_from: dict[str, str] = {}
    todo = deque([first])
    while todo:
        member = todo.popleft()
        for each in neighbours[member]:
            if each not in came_from:
                came_from[each] = member
                todo.append(each)
    return came_from


def closed_walks(after: Neighbours) -> list[list[str]]:
    """Return one cycle for each set of members that all reach each other, as `domain.graph.cycles` promises it."""
    knots = _knots(after)
    within = {member: [each for each in targets if knots[each] == knots[member]] for member, targets in after.items()}
    firsts = {knots[member]: member for member in reversed([*after])}
    found = []
    for first in (member for member in after if firsts[knots[member]] == member):
        came_from = reached(first, within)
        if first in came_from:
            walk = [first, came_from[first]]
            while walk[-1] != first:
                walk.append(came_from[walk[-1]])
            found.append(walk[::-1])
    return found


def _knots(after: Neighbours) -> dict[str, str]:
    """Return for each member one that stands for all that it reaches and that reach it.

    Strongly connected components in linear time, by Kosaraju and Sharir: what is left last by a walk forwards is
    where a walk backwards stays within its component.
    """
    left: list[str] = []
    seen: set[str] = set()
    for start in after:
        path = [] if start in seen else [(start, iter(after[start]))]
        seen.add(start)
        while path:
            member, rest = path[-1]
            onward = next((each for each in rest if each not in seen), None)
            if onward is None:
                left.append(member)
                path.pop()
            else:
                seen.add(onward)
                path.append((onward, iter(after[onward])))
    before: dict[str, list[str]] = {member: [] for member in after}
    for member, targets in after.items():
        for target in targets:
            before[target].append(member)
    knots: dict[str, str] = {}
    for last in reversed(left):
        todo = [] if last in knots else [last]
        knots.setdefault(last, last)
        while todo:
            fresh = [each for each in before[todo.pop()] if each not in knots]
            knots |= dict.fromkeys(fresh, last)
            todo += fresh
    return knots
