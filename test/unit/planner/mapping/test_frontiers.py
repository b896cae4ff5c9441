from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from smallplan_planner.mapping.frontiers import FrontierCluster, FrontierTracker, frontier_cells
from smallplan_planner.mapping.occupancy import FREE, OCCUPIED, UNKNOWN, OccupancyGrid
from smallplan_planner.mapping.rooms import RoomSegmenter
from unit.planner.mapping.drawn import Drawn, draw


def find(
    drawn: Drawn, tracker: FrontierTracker | None = None, robot_radius: float = 0.0, scanned: bool = False
) -> tuple[FrontierCluster, ...]:
    robot_xy = (drawn.robot.x, drawn.robot.y)
    field = drawn.field(robot_radius)
    rooms = RoomSegmenter().update(drawn.grid, drawn.doors, robot_xy, field)
    tracker = tracker or FrontierTracker()
    return tracker.update(drawn.grid, rooms, field, scanned_from=robot_xy if scanned else None)


HALF_SEEN = """
##########
#....
#.@..
#....
#....
##########
"""


def test_the_edge_of_the_known_floor_is_one_frontier_with_its_middle() -> None:
    drawn = draw(HALF_SEEN)
    (frontier,) = find(drawn)
    assert frontier.cell in {(2, 4), (3, 4)}
    assert frontier.position == drawn.grid.to_world(*frontier.cell)
    assert not frontier.leads_out
    assert frontier.length == 4 * 0.25
    assert frontier.distance == drawn.field().distances[frontier.cell]


def test_frontier_cells_are_free_cells_beside_unknown_ones() -> None:
    edge = frontier_cells(draw(HALF_SEEN).grid)
    assert sorted(map(tuple, np.argwhere(edge))) == [(1, 4), (2, 4), (3, 4), (4, 4)]


@given(
    arrays(np.int8, (9, 12), elements=st.sampled_from([UNKNOWN, UNKNOWN, FREE, OCCUPIED])),
    arrays(bool, (9, 12), elements=st.sampled_from([False, False, False, True])),
    st.integers(0, 3),
)
def test_unknown_floor_counts_when_it_is_large_or_reaches_beyond_the_grid(
    data: np.ndarray, covered: np.ndarray, margin: int
) -> None:
    data, covered = (np.pad(part, margin, constant_values=value) for part, value in ((data, UNKNOWN), (covered, False)))
    unknown = np.pad((data == UNKNOWN) & ~covered, 1, constant_values=True)
    pockets, count = ndimage.label(unknown)
    worth = [n for n in range(1, count + 1) if n == pockets[0, 0] or np.count_nonzero(pockets == n) * 0.2**2 >= 0.15]
    expected = ndimage.binary_dilation(np.isin(pockets, worth))[1:-1, 1:-1] & (data == FREE)
    assert np.array_equal(frontier_cells(OccupancyGrid(data, 0.2), covered), expected)


def test_a_room_seen_whole_has_none() -> None:
    assert find(draw("#####\n#...#\n#.@.#\n#####")) == ()


def test_specks_and_small_shadows_are_ignored() -> None:
    speck = """
########
#......#
#.@.. .#
#......#
########
"""
    assert find(draw(speck)) == ()
    gap = """
########
#......#
#.@....
#......#
########
"""
    assert find(draw(gap)) == ()


def test_what_the_robot_can_not_get_to_is_ignored() -> None:
    cut_off = """
##########
#...#...
#.@.#...
#...#...
##########
"""
    assert find(draw(cut_off)) == ()


def test_unknown_space_in_an_opening_leads_out() -> None:
    doorway = """
#######
#.....#
#..@..a
#.....a
#.....#
#######
"""
    (frontier,) = find(draw(doorway + "\n"))
    assert frontier.leads_out and frontier.room == 1


def test_space_seen_beyond_an_opening_leads_out_until_it_is_a_room() -> None:
    glimpse = """
#######
#.....#
#..@..a.
#.....a.
#.....#
#######
"""
    assert [(f.leads_out, f.room) for f in find(draw(glimpse))] == [(True, 1)]
    room = """
#######......
#.....#......
#..@..a......
#.....a......
#.....#......
#############
"""
    assert {(f.leads_out, f.room) for f in find(draw(room))} == {(False, 2)}


def test_the_point_to_stand_on_is_in_sight_of_the_edge() -> None:
    # The nook behind the cabinet is too narrow for the robot; cells left of the cabinet are near, yet see nothing.
    nook = """
###################
#..........#   .#
#..........#  ..#
#..........#....#
#..@.......#....#
#..........#....#
#..........#....#
#...............#
#...............#
#...............#
#################
"""
    drawn = draw(nook, 0.15)
    for frontier in find(drawn, robot_radius=0.25):
        assert frontier.cell[1] > 11 or frontier.cell[0] < 4


def test_a_frontier_keeps_its_number_as_it_moves_and_numbers_are_not_used_again() -> None:
    tracker = FrontierTracker()
    (first,) = find(draw(HALF_SEEN), tracker)
    further = HALF_SEEN.replace("..\n", "....\n")
    (second,) = find(draw(further), tracker)
    assert second.number == first.number == 1
    assert second.cell != first.cell
    whole = "\n".join(line + "....#" if line[-1:] == "." else line for line in HALF_SEEN.split("\n"))
    assert find(draw(whole), tracker) == ()
    assert [f.number for f in find(draw(HALF_SEEN), tracker)] == [2]


def test_a_frontier_that_a_look_around_on_the_spot_does_not_resolve_is_dropped_for_good() -> None:
    tracker = FrontierTracker()
    (frontier,) = find(draw(HALF_SEEN), tracker)
    lines = HALF_SEEN.replace("@", ".").strip("\n").split("\n")
    row = len(lines) - 1 - frontier.cell[0]
    lines[row] = lines[row][: frontier.cell[1]] + "@"
    there = draw("\n".join(lines))
    assert len(find(there, tracker, scanned=False)) == 1
    assert find(there, tracker, scanned=True) == ()
    assert find(draw(HALF_SEEN), tracker) == ()
    # New floor beyond it is something new to explore.
    assert len(find(draw(HALF_SEEN.replace("..\n", "....\n")), tracker)) == 1


def test_numbers_are_given_nearest_first() -> None:
    both_ends = """
    ##############
      ...........
      ..@........
      ...........
    ##############
"""
    near, far = find(draw(both_ends))
    assert (near.number, far.number) == (1, 2)
    assert near.distance < far.distance
