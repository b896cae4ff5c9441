"""What a scene graph refuses, by element and field, and in which order frontiers are taken."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings

from fixtures.graphs import house, scene_graphs
from smallplan_planner.scene_graph import Door, Frontier, Pose, Room, SceneGraph, SceneGraphError, SceneObject

GRAPH = house()
BED = GRAPH.objects[-1]
BOX = SceneObject("a", "box", "k", parent="b", relation="in")


@settings(max_examples=30)
@given(graph=scene_graphs())
def test_a_graph_with_any_labels_and_unknown_distances_can_be_planned_on(graph: SceneGraph) -> None:
    graph.validate()


@pytest.mark.parametrize(
    ("graph", "named"),
    [
        (SceneGraph(), "no rooms"),
        (replace(GRAPH, robot_pose=Pose(math.nan, 0.0)), "robot_pose"),
        (replace(GRAPH, robot_pose=Pose(0.0, 0.0, math.inf)), "robot_pose"),
        (replace(GRAPH, robot_room="attic"), "robot_room 'attic'"),
        (replace(GRAPH, objects=(BED, BED._replace(id=""))), "object 2 of 2 has an empty id"),
        (replace(GRAPH, objects=(BED, BED)), "'bed' is used by a object and by a object"),
        (replace(GRAPH, objects=(BED._replace(id="k"),)), "'k' is used by a room and by a object"),
        (replace(GRAPH, objects=(BED._replace(position=(0.0, math.nan, 0.0)),)), "object 'bed': position"),
        (replace(GRAPH, rooms=(Room("k", center=(math.inf, 0.0, 0.0)), Room("u"))), "room 'k': position"),
        (replace(GRAPH, objects=(BED._replace(distance=math.inf),)), "object 'bed': distance inf"),
        (replace(GRAPH, objects=(BED._replace(distance=-1.0),)), "object 'bed': distance -1"),
        (replace(GRAPH, objects=(BED._replace(room="attic"),)), "object 'bed': room 'attic'"),
        (replace(GRAPH, objects=(BED._replace(parent="shelf"),)), "object 'bed': parent 'shelf'"),
        (replace(GRAPH, objects=(BED._replace(relation="under"),)), "relation 'under'"),
        (replace(GRAPH, objects=(BOX, BOX._replace(id="b", parent="a"))), "cycle: [ab] -> [ab]"),
        (replace(GRAPH, objects=(BOX._replace(parent="a"),)), "cycle: a"),
        (replace(GRAPH, doors=(Door("d", ()),)), "door 'd' joins 0 rooms"),
        (replace(GRAPH, doors=(Door("d", ("k", "u", "k")),)), "door 'd' joins 3 rooms"),
        (replace(GRAPH, doors=(Door("d", ("attic",)),)), "door 'd': room 'attic'"),
        (replace(GRAPH, frontiers=(Frontier("f", "attic"),)), "frontier 'f': room 'attic'"),
    ],
)
def test_what_can_not_be_planned_on_is_named(graph: SceneGraph, named: str) -> None:
    with pytest.raises(SceneGraphError, match=named):
        graph.validate()


def test_frontiers_that_lead_out_come_first_then_the_nearest_then_by_id() -> None:
    frontiers = (
        Frontier("f5", "k", distance=1.0),
        Frontier("f4", "k", leads_out=True, distance=math.nan),
        Frontier("f3", "k", leads_out=True, distance=7.0),
        Frontier("f2", "k", leads_out=True, distance=7.0),
        Frontier("f1", "k", leads_out=True, distance=9.0),
        Frontier("f0", "u", leads_out=True, distance=0.0),
    )
    order = [frontier.id for frontier in replace(GRAPH, frontiers=frontiers).frontiers_of("k")]
    assert order == ["f2", "f3", "f1", "f4", "f5"]


def test_rooms_over_objects_joined_by_doors() -> None:
    inside = SceneObject("mug", "mug", "k", parent="cab", relation="in")
    graph = replace(GRAPH, objects=(*GRAPH.objects, inside)).to_networkx()
    assert graph.nodes["k"] == {"kind": "room", "label": "kitchen"}
    assert graph.edges["cab", "mug"]["relation"] == "in" and not graph.has_edge("k", "mug")
    assert set(graph["d2"]) == {"k", "u"}
    assert set(graph["u"]) == {"bed", "d2", "f1", "f2"}
