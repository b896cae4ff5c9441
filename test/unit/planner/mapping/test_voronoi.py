from __future__ import annotations

import math

import networkx as nx
import numpy as np
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from smallplan_planner.mapping.occupancy import FREE, OCCUPIED, OccupancyGrid
from smallplan_planner.mapping.rooms import RoomSegmenter
from smallplan_planner.mapping.voronoi import SPACING, count_new_nodes, voronoi_graph
from smallplan_planner.scene_graph import Pose
from unit.planner.mapping.drawn import Drawn, draw

CORRIDOR = """
#########################
#...........#...........#
#...........#...........#
#....###....a....###....#
#.@..###....a....###....#
#....###....a....###....#
#...........#...........#
#...........#...........#
#########################
"""


def graph_of(drawn: Drawn) -> nx.Graph:
    field = drawn.field()
    robot_xy = (drawn.robot.x, drawn.robot.y)
    rooms = RoomSegmenter().update(drawn.grid, drawn.doors, robot_xy, field)
    return voronoi_graph(np.isfinite(field.distances), drawn.grid, rooms)


def test_each_room_has_its_subgraph_and_doorways_join_them() -> None:
    graph = graph_of(draw(CORRIDOR))
    rooms = {room: [n for n in graph if graph.nodes[n]["room"] == room] for room in (1, 2)}
    for nodes in rooms.values():
        # A ring around the pillar.
        assert nx.is_connected(graph.subgraph(nodes))
        assert len(nx.cycle_basis(graph.subgraph(nodes))) == 1
    kinds = nx.get_edge_attributes(graph, "kind")
    (doorway,) = [edge for edge, kind in kinds.items() if kind == "doorway"]
    assert {graph.nodes[node]["room"] for node in doorway} == {1, 2}
    # No node stands in the doorway itself (x = 3.125 m).
    assert all(abs(position[0] - 3.125) > 0.3 for _, position in graph.nodes(data="pos"))


def test_edges_are_about_half_a_metre_and_as_long_as_their_way() -> None:
    graph = graph_of(draw(CORRIDOR))
    for u, v, data in graph.edges(data=True):
        straight = math.dist(graph.nodes[u]["pos"], graph.nodes[v]["pos"])
        assert straight <= data["length"] + 1e-9
        if data["kind"] == "room":
            assert data["length"] <= 1.5 * SPACING + 0.3


def test_dents_in_a_wall_do_not_make_branches() -> None:
    hall = "\n".join(["#" + "." * 29 + "#"] * 3).replace(".", "@", 1)
    smooth = graph_of(draw(f"{'#' * 31}\n{hall}\n{'#' * 31}"))
    assert max(dict(smooth.degree).values()) == 2
    dented = graph_of(draw(f"#####.#########.#########.#####\n{hall}\n{'#' * 31}"))
    assert max(dict(dented.degree).values()) == 2


@settings(max_examples=80, deadline=None)
@given(arrays(np.int8, (14, 17), elements={"min_value": 0, "max_value": 3}, fill=None))
def test_what_hangs_together_stays_so(noise: np.ndarray) -> None:
    data = np.where(noise == 3, OCCUPIED, FREE).astype(np.int8)
    data[7, 8] = FREE
    grid = OccupancyGrid(data, 0.25)
    x, y = grid.to_world(7, 8)
    graph = graph_of(Drawn(grid, Pose(x, y), []))
    parts, _ = ndimage.label(data == FREE, np.ones((3, 3)))
    assert len(graph) >= 1 and nx.is_connected(graph)
    for _, position in graph.nodes(data="pos"):
        assert parts[grid.to_cell(*position)] == parts[7, 8]


def test_new_nodes_are_those_where_there_were_none() -> None:
    half = graph_of(draw("\n".join(line[:12] for line in CORRIDOR.splitlines())))
    whole = graph_of(draw(CORRIDOR))
    assert count_new_nodes(None, half) == len(half) > 0
    assert count_new_nodes(whole, whole) == 0
    added = count_new_nodes(half, whole)
    beyond = [n for n in whole if whole.nodes[n]["room"] == 2]
    assert len(beyond) <= added < len(whole)
