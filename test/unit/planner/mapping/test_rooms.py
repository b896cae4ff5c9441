from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from smallplan_planner.mapping import FREE, OCCUPIED, UNKNOWN, OccupancyGrid
from smallplan_planner.mapping.rooms import RoomSegmenter, Segmentation, _nearest_labels
from unit.planner.mapping.drawn import Drawn, draw

TWO_ROOMS = """
#############
#.....#.....#
#.....#.....#
#..@..a.....#
#.....a.....#
#.....#.....#
#############
"""


def segment(drawn: Drawn, segmenter: RoomSegmenter | None = None) -> Segmentation:
    robot_xy = (drawn.robot.x, drawn.robot.y)
    return (segmenter or RoomSegmenter()).update(drawn.grid, drawn.doors, robot_xy, drawn.field())


def room_at(rooms: Segmentation, line: int, col: int) -> int:
    """The room of a cell given by its line in the drawing, counted from the top."""
    return int(rooms.labels[rooms.labels.shape[0] - 1 - line, col])


def test_an_opening_separates_rooms_and_joins_them() -> None:
    rooms = segment(draw(TWO_ROOMS))
    assert rooms.numbers == (1, 2)
    assert rooms.robot_room == 1
    assert room_at(rooms, 1, 1) == 1 and room_at(rooms, 5, 11) == 2
    assert rooms.openings[0].rooms == (1, 2)
    assert not rooms.leads_out.any()


def test_every_free_cell_has_a_room_and_no_other_has() -> None:
    drawn = draw(TWO_ROOMS)
    rooms = segment(drawn)
    assert np.array_equal(rooms.labels > 0, drawn.grid.data == FREE)
    assert (rooms.nearest > 0).all()
    assert np.array_equal(rooms.nearest[rooms.labels > 0], rooms.labels[rooms.labels > 0])
    assert rooms.room_at(0, 0) == 1 and rooms.room_at(0, 12) == 2


def test_specks_of_free_floor_belong_to_the_nearest_room() -> None:
    rooms = segment(draw(TWO_ROOMS.replace("#.....#\n", "#.### .\n", 1)))
    assert rooms.numbers == (1, 2)
    assert room_at(rooms, 1, 12) == 2


@given(arrays(np.int32, (9, 11), elements=st.sampled_from([0, 0, 0, 1, 2])))
def test_the_nearest_label_is_that_of_the_distance_transform(labels: np.ndarray) -> None:
    labels[4, 5] = 3
    cells = np.flatnonzero(labels == 0)
    rows, cols = ndimage.distance_transform_edt(labels == 0, return_distances=False, return_indices=True)
    assert np.array_equal(_nearest_labels(labels, cells), labels[rows, cols].ravel()[cells])
    assert np.array_equal(_nearest_labels(labels, cells[:3]), labels[rows, cols].ravel()[cells[:3]])


def test_without_a_detected_opening_it_is_one_room() -> None:
    drawn = draw(TWO_ROOMS)
    assert segment(replace(drawn, doors=[])).numbers == (1,)


def test_a_passage_separates_rooms_as_a_door_does() -> None:
    assert segment(draw(TWO_ROOMS, passages="a")).numbers == (1, 2)


def test_a_glimpse_beyond_an_opening_is_not_a_room_yet() -> None:
    drawn = draw(
        """
        #######
        #.....#
        #..@..a.
        #.....a..
        #.....#
        #######
        """.replace("\n        ", "\n")
    )
    rooms = segment(drawn)
    assert rooms.numbers == (1,)
    assert room_at(rooms, 2, 7) == 1 and rooms.leads_out[3, 7]
    assert not rooms.leads_out[3, 1]


def test_what_one_opening_shows_on_its_other_side_is_one_room() -> None:
    # A pillar hides the middle, so the two halves beyond the opening do not touch.
    drawn = draw(
        """
        ######......
        #....a.......
        #....a   ....
        #.@..a##
        #....a   ....
        #....a.......
        ######......
        """.replace("\n        ", "\n")
    )
    rooms = segment(drawn)
    assert rooms.numbers == (1, 2)
    assert room_at(rooms, 1, 8) == room_at(rooms, 5, 8) == 2


def test_a_closed_door_with_nothing_known_behind_it_joins_one_room() -> None:
    drawn = draw(
        """
        #######
        #.....#
        #..@..A
        #.....A
        #######
        """.replace("\n        ", "\n")
    )
    rooms = segment(drawn)
    assert rooms.openings[0].rooms == (1,)
    assert not rooms.leads_out.any()


def test_numbers_survive_growth_and_moves_of_the_origin() -> None:
    segmenter = RoomSegmenter()
    first = draw(TWO_ROOMS)
    segment(first, segmenter)
    # The same house on a grid that has grown by two cells to the left and three below; the robot has moved on.
    data = np.full((first.grid.shape[0] + 3, first.grid.shape[1] + 2), UNKNOWN, np.int8)
    data[3:, 2:] = first.grid.data
    grid = OccupancyGrid(data, 0.25, (-0.5, -0.75))
    moved = Drawn(grid, replace(first.robot, x=2.6), first.doors)
    rooms = segment(moved, segmenter)
    assert rooms.robot_room == 2
    assert room_at(rooms, 1, 1 + 2) == 1 and room_at(rooms, 1, 11 + 2) == 2


def test_a_room_that_is_split_keeps_its_number_on_the_larger_part() -> None:
    drawn = draw(
        """
        ################
        #.....#........#
        #..@..a........#
        #.....#........#
        ################
        """.replace("\n        ", "\n")
    )
    segmenter = RoomSegmenter()
    assert segment(replace(drawn, doors=[]), segmenter).numbers == (1,)
    rooms = segment(drawn, segmenter)
    assert room_at(rooms, 1, 12) == 1
    assert room_at(rooms, 1, 1) == 2 == rooms.robot_room


def test_rooms_that_merge_keep_the_older_number_and_none_is_used_again() -> None:
    segmenter = RoomSegmenter()
    drawn = draw(TWO_ROOMS)
    segment(drawn, segmenter)
    assert segment(replace(drawn, doors=[]), segmenter).numbers == (1,)
    assert segment(drawn, segmenter).numbers == (1, 3)


def test_a_room_stays_one_when_its_door_is_closed_behind_the_robot() -> None:
    segmenter = RoomSegmenter()
    segment(draw(TWO_ROOMS), segmenter)
    rooms = segment(draw(TWO_ROOMS.replace("a", "A")), segmenter)
    assert rooms.numbers == (1, 2)
    assert rooms.openings[0].rooms == (1, 2)


def test_the_robot_is_in_a_room_however_little_is_known() -> None:
    drawn = draw("  @  ")
    assert segment(drawn).robot_room == 1
    blind = Drawn(OccupancyGrid(np.full((4, 4), OCCUPIED, np.int8), 0.25), drawn.robot, [])
    assert segment(blind).robot_room == 1


def test_a_robot_outside_of_the_grid_is_an_error_that_names_both() -> None:
    drawn = draw(TWO_ROOMS)
    with pytest.raises(ValueError, match=r"robot at \(50\.00, 0\.00\) m is outside .* 13 x 7 cells"):
        segment(replace(drawn, robot=replace(drawn.robot, x=50.0, y=0.0)))
