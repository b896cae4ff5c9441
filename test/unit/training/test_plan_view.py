"""Pictures of a search: fog where nothing was seen, numbers apart, files that can be read."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smallplan_planner.actions import DONE, ActionKind, format_command
from smallplan_planner.policies import RuleClassifier
from smallplan_planner.scene_graph import SceneGraph
from smallplan_planner.search import Answer, SearchConfig, Situation
from smallplan_training import plan_view
from smallplan_training.plan_view import SearchStory, StoryStep, draw_animation, draw_picture
from smallplan_training.rollout import DecisionRecord, run_episode
from smallplan_training.simulators.house.env import HouseSearchEnv
from smallplan_training.simulators.house.episodes import draw_episode
from smallplan_training.simulators.house.house import House


class Explorer(RuleClassifier):
    """Explores whatever comes first, then opens doors."""

    def decide(self, situation: Situation) -> Answer:
        doors = situation.graph.door_by_id
        options = [a for a in situation.options if a.kind is ActionKind.EXPLORE or a.target_id in doors]
        return Answer(format_command([*options, DONE][0], situation.names))


@pytest.fixture(scope="module")
def story(small_house: House) -> SearchStory:
    env, steps = HouseSearchEnv(max_steps=10**6), []
    episode = draw_episode(small_house, 2)

    def on_step(_: Situation, record: DecisionRecord, __: SceneGraph) -> None:
        if record.action is None or record.outcome is None or record.info is None:
            return
        path = tuple((float(x), float(y)) for x, y in record.info["path"][1:])
        grid = env.robot.perception.grid()
        steps.append(StoryStep(record.action.kind, record.answer.command, record.outcome.success, path, grid))

    env.reset(options={"episode": episode})
    first = env.robot.perception.grid()
    run_episode(env, episode, Explorer(), SearchConfig(max_steps=5), on_step)
    origin = episode.raster.centre(*episode.raster.cell(episode.start.x, episode.start.y))
    found = (1.0, 1.0)
    return SearchStory(episode.house, origin, episode.target, (0.0, 0.0), first, tuple(steps), "a headline", found)


def test_picture_and_animation_can_be_read(story: SearchStory, tmp_path: Path) -> None:
    draw_picture(story, tmp_path / "deep" / "a.png")
    draw_animation(story, tmp_path / "a.gif")
    with Image.open(tmp_path / "deep" / "a.png") as picture:
        assert picture.width > 800 and picture.height > 500
        assert np.asarray(picture.convert("L")).std() > 10
    with Image.open(tmp_path / "a.gif") as animation:
        assert len(story.steps) + 2 <= animation.n_frames <= plan_view.MAX_FRAMES + len(story.steps)
        first = np.asarray(animation.convert("L"), dtype=int)
        animation.seek(animation.n_frames - 1)
        last = np.asarray(animation.convert("L"), dtype=int)
    assert (first != last).mean() > 0.01


def test_fog_lies_where_nothing_is_known_and_lifts(story: SearchStory) -> None:
    stage = plan_view._Stage(story, dpi=50)
    before, after = (stage._fog_image(grid)[..., 3] > 0 for grid in (story.first_grid, story.steps[-1].grid))
    assert after.sum() < before.sum()
    assert not (after & ~before).any()
    xs, ys = stage._grid_axes()
    start = story.to_house([story.start])[0]
    row, column = int(np.abs(ys - start[1]).argmin()), int(np.abs(xs - start[0]).argmin())
    assert not before[row, column]
    assert before[0, 0] and after[0, 0]  # outside of the house


def test_a_search_that_found_nothing_and_never_moved(story: SearchStory, tmp_path: Path) -> None:
    empty = replace(story, steps=(), found=None)
    draw_picture(empty, tmp_path / "a.png")
    draw_animation(empty, tmp_path / "a.gif")
    assert (tmp_path / "a.png").stat().st_size > 1000 and (tmp_path / "a.gif").stat().st_size > 1000


def test_names_that_matplotlib_would_read_as_formulas(story: SearchStory, tmp_path: Path) -> None:
    odd = replace(story, target="$x_{$ \\frac", found_name="<b>$", headline="$\\bad{ 木 🙂")
    step = replace(story.steps[0], command="explore($room_1$ \\q)", success=False)
    odd = replace(odd, steps=(step, *story.steps[1:]))
    draw_picture(odd, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


@pytest.mark.parametrize("count", [1, 2, 12, 50])
def test_numbers_are_moved_apart(count: int) -> None:
    points = np.random.default_rng(count).uniform(0, 4, size=(count, 2))
    points[: count // 2] = points[0]  # several actions ended in one place
    places = plan_view._spread(points, 0.5)
    assert all(math.dist(a, b) > 0.35 for a, b in combinations(places, 2))
    assert (places == plan_view._spread(points, 0.5)).all()


def test_prefixes_of_a_path_grow_evenly_along_it() -> None:
    path = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 2.0]])
    parts = list(plan_view._prefixes(path, 0.8))
    assert [part[-1].round(6).tolist() for part in parts] == [[0.8, 0.0], [1.0, 0.6], [1.0, 1.4]]
    assert all((part[0] == path[0]).all() for part in parts)
    assert list(plan_view._prefixes(path[:1], 0.8)) == []


def test_commands_in_short() -> None:
    step = StoryStep(ActionKind.GO_TO_AND_OPEN, "go_to_and_open(kitchen, fridge-2)", True, (), None)  # type: ignore[arg-type]
    assert plan_view._in_short(step) == "open fridge-2, kitchen"
