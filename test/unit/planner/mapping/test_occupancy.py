from __future__ import annotations

import math
from functools import partial

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from smallplan_planner.mapping.occupancy import (
    FREE,
    OCCUPIED,
    UNKNOWN,
    DistanceField,
    OccupancyGrid,
    PathSearch,
    cells_within,
    window_of,
)

masks = arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.sampled_from([True, True, False]))


def grid_of(data: list[list[int]], resolution: float = 0.5, origin: tuple[float, float] = (0.0, 0.0)) -> OccupancyGrid:
    return OccupancyGrid(np.array(data, dtype=np.int8), resolution, origin)


def test_cells_and_points_convert_both_ways() -> None:
    grid = OccupancyGrid(np.zeros((4, 6), np.int8), 0.5, (-1.0, 2.0))
    assert grid.to_cell(-0.9, 2.1) == (0, 0)
    assert grid.to_cell(0.6, 2.1) == (0, 3)
    assert grid.to_cell(-1.1, 2.1) == (0, -1)
    assert grid.to_world(1, 3) == (0.75, 2.75)
    cells = np.array([[0, 0], [1, 3], [3, 5]])
    assert np.array_equal(grid.to_cells(grid.to_worlds(cells)), cells)
    assert grid.contains(3, 5) and not grid.contains(4, 0) and not grid.contains(0, -1)


@pytest.mark.parametrize(
    ("data", "resolution"), [(np.zeros(3, np.int8), 0.1), (np.zeros((0, 2), np.int8), 0.1), (np.zeros((2, 2)), 0.0)]
)
def test_a_bad_grid_is_refused_with_what_was_received(data: np.ndarray, resolution: float) -> None:
    with pytest.raises(ValueError, match=r"got"):
        OccupancyGrid(data, resolution)


def test_unknown_and_inflated_cells_are_not_traversable() -> None:
    grid = grid_of([[FREE, FREE, FREE, FREE, OCCUPIED], [UNKNOWN, FREE, FREE, FREE, FREE]])
    # 1.0 m away is far enough, sqrt(0.5) m is not.
    assert grid.traversable(1.0).tolist() == [[True, True, True, False, False], [False, True, True, False, False]]
    assert grid.traversable(0.0).tolist() == [[True, True, True, True, False], [False, True, True, True, True]]


@given(
    arrays(np.int8, st.tuples(st.integers(1, 8), st.integers(1, 8)), elements=st.sampled_from([-1, 0, 0, 0, 100])),
    st.floats(0.0, 0.5),
)
def test_inflation_is_the_distance_to_the_nearest_occupied_cell(data: np.ndarray, radius: float) -> None:
    grid = OccupancyGrid(data, 0.1)
    walls = np.argwhere(data == OCCUPIED)
    for row, col in np.ndindex(data.shape):
        gap = min((math.dist((row, col), wall) * 0.1 for wall in walls), default=math.inf)
        if abs(gap - radius) > 1e-6:
            assert grid.traversable(radius)[row, col] == (data[row, col] == FREE and gap >= radius)


@settings(max_examples=60)
@given(masks, st.data())
def test_distances_are_those_of_dijkstra_and_paths_have_that_length(mask: np.ndarray, data: st.DataObject) -> None:
    start = data.draw(st.tuples(st.integers(0, mask.shape[0] - 1), st.integers(0, mask.shape[1] - 1)))
    field = DistanceField(mask, 0.5, (1.0, -2.0), (1.0 + (start[1] + 0.5) * 0.5, -2.0 + (start[0] + 0.5) * 0.5))
    graph = nx.Graph()
    graph.add_nodes_from((int(r), int(c)) for r, c in np.argwhere(mask))
    for row, col in list(graph):
        for dr, dc in ((0, 1), (1, 0), (1, 1), (1, -1)):
            if (row + dr, col + dc) in graph:
                graph.add_edge((row, col), (row + dr, col + dc), weight=0.5 * math.hypot(dr, dc))
    if not graph:
        assert field.start is None and np.isinf(field.distances).all()
        return
    if mask[start]:
        assert field.start == start
    expected = nx.single_source_dijkstra_path_length(graph, field.start)
    for cell in np.ndindex(mask.shape):
        assert field.distances[cell] == pytest.approx(expected.get(cell, math.inf))
        if cell in expected:
            path = field.path_to(*cell)
            assert np.hypot(*np.diff(path, axis=0).T).sum() == pytest.approx(expected[cell])
            rows, cols = ((path[:, 1] + 2.0) // 0.5).astype(int), ((path[:, 0] - 1.0) // 0.5).astype(int)
            assert mask[rows, cols].all()
            assert (rows[0], cols[0]) == field.start and (rows[-1], cols[-1]) == cell
        else:
            with pytest.raises(ValueError, match="can't be reached"):
                field.path_to(*cell)


@given(st.lists(masks, min_size=2, max_size=4))
def test_a_search_that_is_kept_knows_nothing_of_the_masks_before(before_and_after: list[np.ndarray]) -> None:
    search = PathSearch()
    for mask in before_and_after:
        kept = DistanceField(mask, 1.0, (0.0, 0.0), (0.5, 0.5), search)
        fresh = DistanceField(mask, 1.0, (0.0, 0.0), (0.5, 0.5))
        assert np.array_equal(kept.distances, fresh.distances)
        for row, col in np.argwhere(np.isfinite(fresh.distances)):
            assert np.array_equal(kept.path_to(row, col), fresh.path_to(row, col))


def test_a_field_outlives_the_search_that_made_it() -> None:
    search = PathSearch()
    mask = np.ones((3, 3), bool)
    field = DistanceField(mask, 1.0, (0.0, 0.0), (0.5, 0.5), search)
    path = field.path_to(2, 2)
    DistanceField(mask, 1.0, (0.0, 0.0), (2.5, 0.5), search)
    assert field.distances[0, 0] == 0.0 and np.array_equal(field.path_to(2, 2), path)


def test_points_have_distances_and_nan_where_there_is_no_way() -> None:
    field = DistanceField(np.array([[True, True, False, True]]), 1.0, (0.0, 0.0), (0.5, 0.5))
    assert field.distance(1.5, 0.5) == 1.0
    assert math.isnan(field.distance(3.5, 0.5))
    assert math.isnan(field.distance(99.0, 0.5))


def test_a_start_that_is_not_traversable_moves_to_the_nearest_cell_that_is() -> None:
    mask = np.array([[True, False, False, True, True]])
    assert DistanceField(mask, 1.0, (0.0, 0.0), (2.4, 0.5)).start == (0, 3)
    assert DistanceField(mask, 1.0, (0.0, 0.0), (-7.0, 0.5)).start == (0, 0)


def test_a_start_beside_a_pocket_moves_to_the_floor_beyond_it() -> None:
    mask = np.ones((8, 20), bool)
    mask[:, :8] = False
    mask[4, 3] = True
    at = lambda col: ((col + 0.5) * 0.1, 0.45)  # noqa: E731
    assert DistanceField(mask, 0.1, (0.0, 0.0), at(4)).start == (4, 8)
    # Too far away to be where the robot is, or stood upon: the pocket it is.
    assert DistanceField(mask, 0.1, (0.0, 0.0), at(1)).start == (4, 3)
    assert DistanceField(mask, 0.1, (0.0, 0.0), at(3)).start == (4, 3)


def test_the_nearest_of_some_cells_is_that_of_the_shortest_path() -> None:
    mask = np.array(
        [[True, True, True, True, True], [False, False, False, False, True], [True, True, True, True, True]]
    )
    field = DistanceField(mask, 1.0, (0.0, 0.0), (0.5, 0.5))
    near = partial(cells_within, mask.shape, 1.0, (0.0, 0.0))
    # The point lies in the lower corridor, but the upper one is within reach and a long way nearer.
    assert field.nearest_of(near(1.5, 2.5, 0.1)) == (2, 1)
    assert field.nearest_of(near(1.5, 2.5, 2.0)) == (0, 1)
    assert field.nearest_of(near(1.5, 1.5, 0.4)) is None
    assert field.nearest_of(near(-50.0, 0.0, 1.0)) is None


def test_the_nearest_of_the_cells_around_a_footprint() -> None:
    field = DistanceField(np.ones((1, 10), bool), 1.0, (0.0, 0.0), (0.5, 0.5))
    near = partial(cells_within, (1, 10), 1.0, (0.0, 0.0))
    assert field.nearest_of(near(8.0, 0.5, 1.0)) == (0, 7)
    assert field.nearest_of(near(8.0, 0.5, 1.0, (4.0, 1.0, 0.0))) == (0, 5)
    assert field.nearest_of(near(8.0, 0.5, 1.0, (4.0, 0.2, math.pi / 2))) == (0, 7)


@given(st.floats(-1, 3), st.floats(-1, 3), st.floats(0, 1), st.floats(0, 2), st.floats(0, 2), st.floats(-4, 4))
def test_cells_within_a_rectangle_are_those_whose_centre_is(
    x: float, y: float, radius: float, length: float, width: float, yaw: float
) -> None:
    shape = (12, 9)
    found = set(cells_within(shape, 0.25, (-0.5, 0.25), x, y, radius, (length, width, yaw)).tolist())
    for row, col in np.ndindex(shape):
        dx, dy = -0.5 + (col + 0.5) * 0.25 - x, 0.25 + (row + 0.5) * 0.25 - y
        along = abs(math.cos(yaw) * dx + math.sin(yaw) * dy) - length / 2
        across = abs(math.cos(yaw) * dy - math.sin(yaw) * dx) - width / 2
        gap = math.hypot(max(along, 0), max(across, 0))
        if abs(gap - radius) > 1e-6:
            assert (row * 9 + col in found) == (gap < radius)


@given(st.integers(-40, 40), st.integers(-40, 40), st.floats(-1, 3), st.floats(0, 2), st.floats(0, 3))
def test_cells_within_stay_where_they_are_when_the_grid_grows(
    left: int, bottom: int, x: float, length: float, radius: float
) -> None:
    """The origin moves by whole cells, with what rounding makes of them."""
    resolution, origin, footprint = 0.075, (-0.0375, 0.1125), (length, 0.4, 0.3)
    before = OccupancyGrid(np.zeros((120, 120), dtype=np.int8), resolution, (origin[0] - 4.5, origin[1] - 4.5))
    after = OccupancyGrid(
        np.zeros((200, 210), dtype=np.int8),
        resolution,
        (origin[0] - (60 + 40 + left) * resolution, origin[1] - (60 + 40 + bottom) * resolution),
    )

    def centres(grid: OccupancyGrid) -> set[tuple[float, float]]:
        cells = np.divmod(grid.cells_within(x, 1.0, radius, footprint), grid.shape[1])
        return {(round(x, 6), round(y, 6)) for x, y in grid.to_worlds(np.column_stack(cells)).tolist()}

    low, high = before.to_world(0, 0), before.to_world(119, 119)
    on_both = {
        (x, y) for x, y in centres(after) if low[0] - 0.01 < x < high[0] + 0.01 and low[1] - 0.01 < y < high[1] + 0.01
    }
    assert on_both == centres(before)


def test_a_footprint_larger_than_any_house_covers_the_grid_alone() -> None:
    """In no more memory than the grid has: perception may report anything."""
    assert len(cells_within((30, 40), 0.1, (-1.0, 2.0), 5.0, 5.0, 1.0, (1e6, 1e6, 0.3))) == 30 * 40


@given(masks)
def test_a_window_holds_all_true_cells_and_no_more(mask: np.ndarray) -> None:
    rows, cols = window_of(mask)
    inside = mask[rows, cols]
    assert np.count_nonzero(inside) == np.count_nonzero(mask)
    assert inside.size == 0 or (inside[[0, -1]].any(axis=1).all() and inside[:, [0, -1]].any(axis=0).all())
