"""The navigation Voronoi graph: the medial axis of the floor that the robot can reach, as a networkx graph.

Nodes are junctions, ends, and points about every half metre between them; short spurs are pruned. The graph
is cut in the doorways, which leaves one subgraph a room, and the subgraphs are joined again by the shortest
paths through the doorways, as in MoMa-LLM (arXiv 2403.08605).

Nodes are numbers and have `pos` (world x, y in m) and `room` (room number); edges have `length` (m)
and `kind`, "room" or "doorway".
"""

from __future__ import annotations

from itertools import pairwise

import networkx as nx
import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.morphology import skeletonize

from smallplan_planner.mapping.occupancy import BoolArray, FloatArray, OccupancyGrid
from smallplan_planner.mapping.rooms import DOORWAY_DEPTH, Segmentation, segment_cells

SPACING = 0.5  # m between nodes along the medial axis
MIN_SPUR = 0.6  # m; a shorter dead end is a dent in a wall, not a way
SAME_NODE = 0.4  # m within which a node counts as one that was there before


def voronoi_graph(reachable: BoolArray, grid: OccupancyGrid, rooms: Segmentation) -> nx.Graph:
    """The Voronoi graph of the reachable cells (H, W). Connected when they are (8-connected)."""
    chains = _prune(_trace(skeletonize(reachable)), grid)
    graph = _sample(chains, grid, rooms)
    return _cut_doorways(graph, grid, rooms)


def count_new_nodes(previous: nx.Graph | None, current: nx.Graph) -> int:
    """How many nodes of `current` are farther than SAME_NODE metres from every node of `previous`."""
    if previous is None or not previous or not current:
        return len(current)
    before = cKDTree([previous.nodes[node]["pos"] for node in previous])
    gaps, _ = before.query([current.nodes[node]["pos"] for node in current])
    return int(np.count_nonzero(gaps > SAME_NODE))


def _trace(skeleton: BoolArray) -> nx.MultiGraph:
    """Skeleton -> its junctions and ends as nodes (flat cells), joined by edges with `path`: the cells from u to v."""
    links = _links(skeleton)
    many = np.zeros(skeleton.size, dtype=bool)
    many[[cell for cell, others in links.items() if len(others) > 2]] = True
    clusters, _ = ndimage.label(many.reshape(skeleton.shape), np.ones((3, 3)))
    cluster_of = clusters.ravel()
    hub: dict[int, int] = {}  # cell of a junction or an end -> the cell that stands for it
    first_of: dict[int, int] = {}
    for cell, others in links.items():
        if len(others) > 2:
            hub[cell] = first_of.setdefault(int(cluster_of[cell]), cell)
        elif len(others) < 2:
            hub[cell] = cell
    chains = nx.MultiGraph()
    chains.add_nodes_from(dict.fromkeys(hub.values()))
    walked: set[int] = set()
    for start in list(hub):
        for step in links[start]:
            if step not in hub:
                if step not in walked:
                    _add_chain(chains, hub, _walk(start, step, links, hub, walked))
            elif hub[step] != hub[start] and start < step:
                _add_chain(chains, hub, [start, step])
    for cell in links:  # rings without a junction
        if cell not in hub and cell not in walked:
            hub[cell] = cell
            chains.add_node(cell)
            _add_chain(chains, hub, _walk(cell, links[cell][0], links, hub, walked))
    return chains


def _links(skeleton: BoolArray) -> dict[int, list[int]]:
    """Flat cell of the skeleton -> its 8-neighbours, without diagonals that a straight neighbour leads to as well."""
    height, width = skeleton.shape
    padded = np.pad(skeleton, 1)

    def shifted(dr: int, dc: int) -> BoolArray:
        return padded[1 + dr : 1 + dr + height, 1 + dc : 1 + dc + width]

    cells = np.flatnonzero(skeleton)
    links: dict[int, list[int]] = {cell: [] for cell in cells.tolist()}
    for dr, dc in ((-1, 0), (0, -1), (0, 1), (1, 0), (-1, -1), (-1, 1), (1, -1), (1, 1)):
        present = skeleton & shifted(dr, dc)
        if dr and dc:
            present &= ~shifted(dr, 0) & ~shifted(0, dc)
        for cell in np.flatnonzero(present).tolist():
            links[cell].append(cell + dr * width + dc)
    return links


def _walk(start: int, step: int, links: dict[int, list[int]], hub: dict[int, int], walked: set[int]) -> list[int]:
    """The chain of cells from `start` over `step` to the next junction or end."""
    path = [start, step]
    before = start
    while step not in hub:
        walked.add(step)
        one, other = links[step]  # a cell of a chain has two neighbours
        before, step = step, other if one == before else one
        path.append(step)
    return path


def _add_chain(chains: nx.MultiGraph, hub: dict[int, int], path: list[int]) -> None:
    u, v = hub[path[0]], hub[path[-1]]
    whole = ([u] if u != path[0] else []) + path + ([v] if v != path[-1] else [])
    chains.add_edge(u, v, path=whole)


def _prune(chains: nx.MultiGraph, grid: OccupancyGrid) -> nx.MultiGraph:
    """Drop dead ends shorter than MIN_SPUR and join the chains that met at their foot."""
    spurs = []
    for node in chains:
        if chains.degree(node) == 1:
            ((_, other, path),) = chains.edges(node, data="path")
            length = _along(path, grid)[-1]
            if chains.degree(other) > 2 and length < MIN_SPUR:
                spurs.append((length, node, other))
    for _, node, other in sorted(spurs):
        if chains.degree(other) > 2:  # the last two branches of a junction are a way, however short
            chains.remove_node(node)
    for node in list(chains):
        if chains.degree(node) == 2 and not chains.has_edge(node, node):
            (_, u, one), (_, v, two) = chains.edges(node, data="path")
            chains.remove_node(node)
            chains.add_edge(u, v, path=_from(node, one)[::-1] + _from(node, two)[1:])
    return chains


def _from(node: int, path: list[int]) -> list[int]:
    """The path, turned so that it begins at `node`."""
    return path if path[0] == node else path[::-1]


def _along(path: list[int], grid: OccupancyGrid) -> FloatArray:
    """Metres from the beginning of a path to each of its cells."""
    rows, cols = np.divmod(np.asarray(path), grid.shape[1])
    lengths: FloatArray = np.concatenate([[0.0], np.hypot(np.diff(rows), np.diff(cols)).cumsum()]) * grid.resolution
    return lengths


def _sample(chains: nx.MultiGraph, grid: OccupancyGrid, rooms: Segmentation) -> nx.Graph:
    """Chains -> graph with a node at each junction and end, and about every SPACING metres between them."""
    graph = nx.Graph()
    number: dict[int, int] = {}
    room_of = rooms.labels.ravel()

    def node_at(cell: int) -> int:
        if cell not in number:
            number[cell] = len(number)
            graph.add_node(number[cell], pos=grid.to_world(*divmod(cell, grid.shape[1])), room=int(room_of[cell]))
        return number[cell]

    for cell in chains:
        node_at(cell)
    for _, _, path in chains.edges(data="path"):
        along = _along(path, grid)
        # A ring needs two points on its way, parallel chains one, to stay edges of a simple graph.
        pieces = max(3 if path[0] == path[-1] else 1, round(along[-1] / SPACING))
        if pieces == 1 and graph.has_edge(node_at(path[0]), node_at(path[-1])):
            pieces = 2
        stops = np.searchsorted(along, np.linspace(0.0, along[-1], pieces + 1)[1:-1])
        marks = [0, *stops.tolist(), len(path) - 1]
        for begin, end in pairwise(marks):
            u, v = node_at(path[begin]), node_at(path[end])
            if u != v:
                graph.add_edge(u, v, length=float(along[end] - along[begin]), kind="room")
    return graph


def _cut_doorways(graph: nx.Graph, grid: OccupancyGrid, rooms: Segmentation) -> nx.Graph:
    """Take the nodes in doorways between two rooms out, and join what they joined by shortest paths."""
    doorway = np.zeros(grid.shape, dtype=bool)
    for opening in rooms.openings:
        if len(opening.rooms) == 2:
            doorway.ravel()[segment_cells(grid, opening.door, DOORWAY_DEPTH, 0.0)] = True
    inside = {node for node in graph if doorway[grid.to_cell(*graph.nodes[node]["pos"])]}
    for hole in list(nx.connected_components(graph.subgraph(inside))):
        border = sorted({other for node in hole for other in graph[node]} - hole)
        if not border:
            continue  # nothing but this doorway is reachable: it stays
        through = graph.subgraph(hole | set(border)).copy()
        bridges = nx.Graph()
        bridges.add_nodes_from(border)
        for start in border:
            lengths = nx.single_source_dijkstra_path_length(through, start, weight="length")
            bridges.add_weighted_edges_from(((start, end, lengths[end]) for end in border if end > start), "length")
        graph.remove_nodes_from(hole)
        for u, v, data in nx.minimum_spanning_edges(bridges, weight="length"):
            if not graph.has_edge(u, v):
                graph.add_edge(u, v, length=data["length"], kind="room")
    for u, v, data in graph.edges(data=True):
        if graph.nodes[u]["room"] != graph.nodes[v]["room"]:
            data["kind"] = "doorway"
    return graph
