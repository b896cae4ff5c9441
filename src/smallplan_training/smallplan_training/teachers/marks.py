"""What the teacher thinks of each thing that a prompt lists: labels of places in its text.

An answer names the best thing of each list and tells nothing of the others, yet a model has to judge them all to find
it. With marks it is told of each what the teacher makes of it, dozens of times a prompt. They serve in training alone
(`nano/train.py`): no prompt and no answer contains them.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass

from smallplan_planner.prompt import (
    CONTAINERS,
    DOORS,
    SPACES,
    SURFACES,
    LogEntry,
    Option,
    PromptView,
    listed_matches,
    listed_surfaces,
    log_entries,
    option_groups,
    option_word,
    render,
    split_containers,
)
from smallplan_training.teachers.expert import CHANCES, Candidate, ExpertTeacher

OTHER, TARGET = "another thing", "the target"
_WORDS = tuple(word for _, _, word in CHANCES)
LABELS = (OTHER, TARGET, *_WORDS, *(f"{word}, best so far" for word in _WORDS))
"""Of a thing in the log: whether it is the target. Of what can be done: its chance, and whether nothing that stands
before it in its list is worth as much (so the last of these is the best of the list)."""


@dataclass(frozen=True)
class Mark:
    """The label of what ends before character `end` of the user's message."""

    end: int
    label: int  # index into LABELS


def mark(view: PromptView, teacher: ExpertTeacher) -> tuple[Mark, ...]:
    """The marks of a view's prompt, in the order of the text.

    Where the target is listed they are of the things in the log alone, as nothing else counts then.
    """
    lines = render(view)[1].content.split("\n")
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)
    log, entries = lines.index("Log:") + 1, tuple(log_entries(view))
    targets = listed_matches(view, view.target)
    marks = list(_mark_log(entries, targets, starts[log:]))
    if targets:
        return tuple(marks)
    shown = {
        CONTAINERS: split_containers(view)[0],
        SURFACES: listed_surfaces(view),
        SPACES: view.spaces,
        DOORS: view.doors,
    }
    for (head, options), rated in zip(shown.items(), teacher.rate(view), strict=True):
        if options:
            first = lines.index(f"{head}:", log + len(entries)) + 1
            marks += _mark_options(options, _judge(rated), starts[first:])
    return tuple(sorted(marks, key=lambda mark: mark.end))


def _mark_log(
    entries: Iterable[LogEntry], targets: Container[tuple[str, str]], starts: Sequence[int]
) -> Iterator[Mark]:
    for entry, start in zip(entries, starts):
        room = entry.room.name if entry.room is not None else ""
        end = start + len(f"{room}: ")
        for obj in entry.objects:
            end += len(obj.name)
            yield Mark(end, LABELS.index(TARGET if (room, obj.name) in targets else OTHER))
            end += len(f" ({obj.state}), " if obj.state else ", ")


def _judge(rated: Iterable[Candidate]) -> dict[Option, int]:
    """The labels of the options of one list."""
    labels: dict[Option, int] = {}
    best: tuple[int, float] | None = None
    for candidate in rated:
        leads = best is None or candidate.worth > best
        best = candidate.worth if leads else best
        labels[candidate.option] = LABELS.index(candidate.chance + (", best so far" if leads else ""))
    return labels


def _mark_options(options: Sequence[Option], labels: dict[Option, int], starts: Sequence[int]) -> Iterator[Mark]:
    for (beginning, group), start in zip(option_groups(options).items(), starts):
        end = start + len(beginning)
        for option in group:
            end += len(option_word(option))
            if option in labels:  # what may not be repeated has none
                yield Mark(end, labels[option])
            end += len(", ")
