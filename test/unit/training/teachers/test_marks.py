"""Marks stand where the things that they label end, and say what the teacher's answer says of the best ones."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from smallplan_planner.names import matches_target, without_counter
from smallplan_planner.priors import load_priors
from smallplan_planner.prompt import (
    CONTAINERS,
    DOORS,
    SPACES,
    SURFACES,
    Hint,
    ObjectView,
    Option,
    PastAction,
    PromptView,
    RoomView,
    log_entries,
    option_word,
    render,
    split_containers,
)
from smallplan_training.teachers.expert import ExpertTeacher
from smallplan_training.teachers.imagined import KINDS, imagine
from smallplan_training.teachers.marks import LABELS, OTHER, TARGET, mark
from smallplan_training.teachers.variations import rename

PRIORS = load_priors()
TEACHER = ExpertTeacher()


HEADS = {"Log": "", CONTAINERS: "containers", SURFACES: "surfaces", SPACES: "spaces", DOORS: "doors"}


def labelled(view: PromptView) -> list[tuple[str, str, str]]:
    """Of each mark: the list of the view that it is in ('' for the log), what ends there, and the label."""
    text = render(view)[1].content
    marks = mark(view, TEACHER)
    assert list(marks) == sorted(marks, key=lambda mark: mark.end)
    found = []
    for one in marks:
        assert text[one.end : one.end + 1] in ",;\n "
        *above, line = text[: one.end].split("\n")
        head = next(HEADS[line[:-1]] for line in reversed(above) if line[:-1] in HEADS)
        found.append((head, line.split(", ")[-1].split(": ")[-1], LABELS[one.label]))
    return found


KITCHEN = PromptView(
    target="mug",
    mode="normal",
    kinds=KINDS,
    rooms=(
        RoomView("kitchen", (ObjectView("fridge", "closed"), ObjectView("cabinet", "closed"), ObjectView("counter"))),
        RoomView("bedroom"),
    ),
    robot_room="kitchen",
    spaces=(Option("bedroom", "near"),),
    doors=(Option("bedroom", "far", "door"),),
    containers=(Option("kitchen", "very close", "fridge"), Option("kitchen", "near", "cabinet")),
    surfaces=(Option("kitchen", "very close", "counter"),),
    hints=(Hint("kitchen", ("cabinet", "counter")),),
)


def test_each_thing_and_each_option_has_a_label() -> None:
    of = labelled(KITCHEN)
    assert of[:3] == [("", "fridge", OTHER), ("", "cabinet", OTHER), ("", "counter", OTHER)]
    words = {(head, word): label for head, word, label in of[3:]}
    assert words.keys() == {
        *(("containers", "cabinet"), ("surfaces", "counter"), ("spaces", "within"), ("doors", "door"))
    }, "the fridge, which is told by its room, has none"
    assert words["containers", "cabinet"] == "fair, best so far", "the usual place"
    everything = {word: label for head, word, label in labelled(replace(KITCHEN, hints=())) if head == "containers"}
    assert everything.keys() == {"fridge", "cabinet"}
    assert everything["fridge"].endswith(", best so far"), "it stands first in its list"


def test_where_the_target_is_listed_nothing_else_is_judged() -> None:
    rooms = (replace(KITCHEN.rooms[0], objects=(ObjectView("mug-2"), ObjectView("fridge", "closed"))),)
    assert labelled(replace(KITCHEN, rooms=rooms)) == [("", "mug-2", TARGET), ("", "fridge", OTHER)]


def test_what_may_not_be_repeated_has_no_label() -> None:
    twice = tuple(PastAction("explore(bedroom)", "explored", step) for step in range(2))
    assert "spaces" in {head for head, _, _ in labelled(KITCHEN)}
    assert "spaces" not in {head for head, _, _ in labelled(replace(KITCHEN, history=twice))}


@pytest.mark.parametrize("seed", range(40))
def test_the_last_best_so_far_is_what_the_answer_names(seed: int) -> None:
    rng = random.Random(seed)
    view = rename(imagine(PRIORS, rng), rng, PRIORS)
    of = labelled(view)
    things = [obj.name for entry in log_entries(view) for obj in entry.objects]
    listed = [name for name in things if matches_target(without_counter(name), view.target)]
    assert [word for _, word, label in of if label == TARGET] == listed
    if listed:
        assert {head for head, _, _ in of} == {""}
        return
    named = {}  # the last best of each list
    for head, word, label in of:
        if label.endswith("best so far"):
            named[head] = (word, label.split(",")[0])
    expected = {}
    for candidate in TEACHER.candidates(view):
        lists = ("containers", "surfaces", "spaces", "doors")
        head = next(name for name in lists if any(candidate.option is option for option in getattr(view, name)))
        if candidate.option not in split_containers(view)[1]:  # these have no marks
            expected[head] = (option_word(candidate.option), candidate.chance)
    assert {head: named.get(head) for head in expected} == expected
