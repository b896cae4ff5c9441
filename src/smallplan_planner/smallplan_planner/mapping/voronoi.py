"""The navigation Voronoi graph: the medial axis of the floor that the robot can reach, as a networkx graph.

Nodes are junctions, ends, and points about every half metre between them; short spurs are pruned. The graph
is cut in the doorways, which leaves one subgraph a room, and the subgraphs are joined again by the shortest
paths through the doorways, as in MoMa-LLM (arXiv 2403.08605).

Nodes are numbered from 0 and have `pos` (world x, y in m) and `room` (room number); edges have `length` (m)
and `kind`, "room" or "doorway".
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import networkx as nx
import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.morphology import skeletonize

from smallplan_planner.mapping.occupancy import BoolArray, OccupancyGrid
from smallplan_planner.mapping.rooms import DOORWAY_DEPTH, Segmentation, segment_cells

SPACING = 0.5  # m between nodes along the medial axis
MIN_SPUR = 0.6  # m; a shorter dead end is a dent in a wall, not a way
SAME_NODE = 0.4  # m within which a node counts as one that was there before

Cell = tuple[int, int]


def voronoi_graph(reachable: BoolArray, grid: OccupancyGrid, rooms: Segmentation) -> nx.Graph:
    """The Voronoi graph of the reachable cells (H, W). Connected when they are (8-connected)."""
    chains = _prune(_trace(skeletonize(reachable)), grid.resolution)
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
    """Skeleton -> its junctions and ends as nodes (cells), joined by edges with `path`: the cells from u to v."""
    cells = [(int(row), int(col)) for row, col in np.argwhere(skeleton)]
    inside = set(cells)
    links = {cell: _neighbours(cell, inside) for cell in cells}
    clusters, _ = ndimage.label(_mask_of((c for c in cells if len(links[c]) > 2), skeleton.shape), np.ones((3, 3)))
    hub: dict[Cell, Cell] = {}  # cell of a junction or an end -> the cell that stands for it
    first_of: dict[int, Cell] = {}
    for cell in cells:
        if len(links[cell]) > 2:
            hub[cell] = first_of.setdefault(int(clusters[cell]), cell)
        elif len(links[cell]) < 2:
            hub[cell] = cell
    chains = nx.MultiGraph()
    chains.add_nodes_from(dict.fromkeys(hub.values()))
    walked: set[Cell] = set()
    for start in list(hub):
        for step in links[start]:
            if step not in hub and step not in walked:
                _add_chain(chains, hub, _walk(start, step, links, hub, walked))
            elif step in hub and hub[step] != hub[start] and start < step:
                _add_chain(chains, hub, [start, step])
    for cell in cells:  # rings without a junction
        if cell not in hub and cell not in walked:
            hub[cell] = cell
            chains.add_node(cell)
            _add_chain(chains, hub, _walk(cell, links[cell][0], links, hub, walked))
    return chains


def _neighbours(cell: Cell, inside: set[Cell]) -> list[Cell]:
    """The 8-neighbours of a skeleton cell, without diagonals that a straight neighbour leads to as well."""
    row, col = cell
    straight = [(row + dr, col + dc) for dr, dc in ((-1, 0), (0, -1), (0, 1), (1, 0)) if (row + dr, col + dc) in inside]
    found = list(straight)
    for dr, dc in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
        corner = (row + dr, col + dc)
        if corner in inside and (row + dr, col) not in inside and (row, col + dc) not in inside:
            found.append(corner)
    return found


def _walk(
    start: Cell, step: Cell, links: dict[Cell, list[Cell]], hub: dict[Cell, Cell], walked: set[Cell]
) -> list[Cell]:
    """The chain of cells from `start` over `step` to the next junction or end."""
    path = [start, step]
    while path[-1] not in hub:
        walked.add(path[-1])
        following = [cell for cell in links[path[-1]] if cell != path[-2]]
        if not following:
            break
        path.append(following[0])
    return path


def _add_chain(chains: nx.MultiGraph, hub: dict[Cell, Cell], path: list[Cell]) -> None:
    u, v = hub[path[0]], hub[path[-1]]
    whole = ([u] if u != path[0] else []) + path + ([v] if v != path[-1] else [])
    chains.add_edge(u, v, path=whole)


def _prune(chains: nx.MultiGraph, resolution: float) -> nx.MultiGraph:
    """Drop dead ends shorter than MIN_SPUR and join the chains that met at their foot."""
    spurs = []
    for node in chains:
        if chains.degree(node) == 1:
            ((_, other, data),) = chains.edges(node, data=True)
            if chains.degree(other) > 2 and _length(data["path"]) * resolution < MIN_SPUR:
                spurs.append((_length(data["path"]), node, other))
    for _, node, other in sorted(spurs):
        if chains.degree(other) > 2:  # the last two branches of a junction are a way, however short
            chains.remove_node(node)
    for node in list(chains):
        if chains.degree(node) == 2 and not chains.has_edge(node, node):
            (_, u, one), (_, v, two) = chains.edges(node, data=True)
            joined = _from(node, one["path"])[::-1] + _from(node, two["path"])[1:]
            chains.remove_node(node)
            chains.add_edge(u, v, path=joined)
    return chains


def _from(node: Cell, path: list[Cell]) -> list[Cell]:
    """The path, turned so that it begins at `node`."""
    return path if path[0] == node else path[::-1]


def _sample(chains: nx.MultiGraph, grid: OccupancyGrid, rooms: Segmentation) -> nx.Graph:
    """Chains -> graph with a node at each junction and end, and about every SPACING metres between them."""
    graph = nx.Graph()
    number: dict[Cell, int] = {}

    def node_at(cell: Cell) -> int:
        if cell not in number:
            number[cell] = len(number)
            graph.add_node(number[cell], pos=grid.to_world(*cell), room=int(rooms.nearest[cell]))
        return number[cell]

    for cell in chains:
        node_at(cell)
    for _, _, path in chains.edges(data="path"):
        along = np.concatenate([[0.0], np.cumsum(_steps(path))]) * grid.resolution
        # A ring needs two points on its way, parallel chains one, to stay edges of a simple graph.
        pieces = max(3 if path[0] == path[-1] else 1, round(along[-1] / SPACING))
        if pieces == 1 and graph.has_edge(node_at(path[0]), node_at(path[-1])):
            pieces = 2
        stops = np.searchsorted(along, np.linspace(0.0, along[-1], pieces + 1)[1:-1])
        marks = [0, *(int(stop) for stop in stops), len(path) - 1]
        for begin, end in zip(marks, marks[1:]):
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
        through = graph.subgraph(hole | set(border))
        bridges = nx.Graph()
        for start, lengths in ((node, nx.single_source_dijkstra_path_length(through, node, weight="length")) for node in border):
            bridges.add_weighted_edges_from(((start, end, lengths[end]) for end in border if end > start), weight="length")
        graph.remove_nodes_from(hole)
        for u, v, length in nx.minimum_spanning_edges(bridges, weight="length", data="length"):
            if not graph.has_edge(u, v):
                graph.add_edge(u, v, length=length, kind="room")
    for u, v, data in graph.edges(data=True):
        if graph.nodes[u]["room"] != graph.nodes[v]["room"]:
            data["kind"] = "doorway"
    return nx.convert_node_labels_to_integers(graph)


def _steps(path: list[Cell]) -> list[float]:
    return [math.dist(a, b) for a, b in zip(path, path[1:])]


def _length(path: list[Cell]) -> float:
    """Length of a path in cells."""
    return sum(_steps(path))


def _mask_of(cells: Iterable[Cell], shape: tuple[int, ...]) -> BoolArray:
    mask = np.zeros(shape, dtype=bool)
    for cell in cells:
        mask[cell] = True
    return mask
