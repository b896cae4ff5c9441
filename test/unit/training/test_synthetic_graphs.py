"""Synthetic graphs have the size that was asked for, can be planned on, and are repeated by their seed."""

from __future__ import annotations

from collections import Counter

import pytest

from smallplan_planner.priors import load_priors
from smallplan_planner.scene_graph import OpenState
from smallplan_training.synthetic_graphs import synthetic_graph


@pytest.mark.parametrize(("rooms", "objects"), [(1, 0), (3, 10), (12, 100), (60, 2000)])
def test_a_graph_has_the_size_that_was_asked_for(rooms: int, objects: int) -> None:
    graph = synthetic_graph(rooms, objects, seed=1)
    graph.validate()
    assert (len(graph.rooms), len(graph.objects), len(graph.doors)) == (rooms, objects, rooms - 1)
    assert graph.robot_room == graph.rooms[0].id
    counts = Counter(obj.room for obj in graph.objects)
    assert max(counts.values(), default=0) - min(counts.values(), default=0) <= 1
    assert synthetic_graph(rooms, objects, seed=1) == graph


def test_things_are_where_the_priors_put_them() -> None:
    priors, graph = load_priors(), synthetic_graph(24, 600)
    assert synthetic_graph(24, 600, seed=1) != graph
    for obj in graph.objects:
        room = graph.room_by_id[obj.room].label
        if obj.label in priors.furniture:
            assert room in priors.furniture[obj.label].rooms
            assert obj.openable == priors.furniture[obj.label].openable == (obj.state is not OpenState.NONE)
        else:
            assert room in {place.room for place in priors.objects[obj.label].places}
    assert {OpenState.OPEN, OpenState.CLOSED} <= {obj.state for obj in graph.objects}
    assert {frontier.leads_out for frontier in graph.frontiers} == {True, False}


@pytest.mark.parametrize(("rooms", "objects"), [(0, 5), (2, -1)])
def test_sizes_that_are_none_are_refused(rooms: int, objects: int) -> None:
    with pytest.raises(ValueError, match="expected at least 1 and at least 0"):
        synthetic_graph(rooms, objects)
