"""Pictures of a search: a plan view of the house with what was explored, the path and the actions in order.

`SearchStory` is what happened, in metres; `draw_picture` writes one PNG, `draw_animation` a GIF. Positions in a
story are in the robot's world frame, whose origin lies at `SearchStory.origin` of the house's frame.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, PathPatch, Polygon
from matplotlib.path import Path as MplPath
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from smallplan_planner.actions import ActionKind
from smallplan_planner.mapping.occupancy import UNKNOWN, OccupancyGrid
from smallplan_planner.names import normalise
from smallplan_training.simulators.house.house import House, HouseRoom

Point2 = tuple[float, float]

MAX_FRAMES = 80
FRAME_MS, LAST_FRAME_MS = 110, 3500
_CELL = 0.075  # m, of the fog over what is unexplored
_MARGIN = 0.5  # m around the house
_MARKER_GAP = 0.62  # m between the centres of two numbers
_LEAF = 0.9  # m, of an open door's leaf
_PANEL_WIDTH = 3.9  # inches of the list of actions
_ROWS = 24  # of the list of actions, in one column
_PLAIN: dict[str, Any] = {"parse_math": False}  # text with names in it, in which a dollar sign is one
_SEEN_SHARE = 0.2  # of a piece of furniture that makes it seen: nobody sees what is inside or behind it

WALL, DOOR, FOG, FLOOR = "#2b2d42", "#b5651d", "#8f9bb3", "#fbf7ef"
FURNITURE, CONTAINER, INK, PATH = "#ddd2bf", "#c9a97c", "#22252e", "#3a5ba0"
STAR, LOCKED = "#f4b400", "#9aa0ad"
FOG_DENSITY = 0.62
KIND_COLOUR = {
    ActionKind.NAVIGATE: "#3a7d44",
    ActionKind.GO_TO_AND_OPEN: "#d1603d",
    ActionKind.CLOSE: "#7b5ea7",
    ActionKind.EXPLORE: "#2a6fdb",
    ActionKind.DONE: STAR,
}
KIND_WORD = {
    ActionKind.NAVIGATE: "go to",
    ActionKind.GO_TO_AND_OPEN: "open",
    ActionKind.CLOSE: "close",
    ActionKind.EXPLORE: "explore",
}


@dataclass(frozen=True)
class StoryStep:
    """One executed action and the state after it."""

    kind: ActionKind
    command: str
    success: bool
    path: tuple[Point2, ...]  # m, travelled by this action, world frame
    grid: OccupancyGrid  # known afterwards
    distance: float = 0.0  # m travelled so far


@dataclass(frozen=True)
class SearchStory:
    """One search, told in steps."""

    house: House
    origin: Point2  # m, house frame: where the world frame's origin is
    target: str
    start: Point2  # m, world frame
    first_grid: OccupancyGrid  # known before the first action
    steps: tuple[StoryStep, ...]
    headline: str  # how it ended, one line
    found: Point2 | None = None  # m, world frame: where the target is
    found_name: str = ""
    planner: str = ""  # who planned, for the caption

    def to_house(self, points: Sequence[Point2]) -> NDArray[np.float64]:
        """World points to (N, 2) in the house's frame."""
        return np.asarray(points, dtype=float).reshape(-1, 2) + np.asarray(self.origin)


def draw_picture(story: SearchStory, path: Path) -> None:
    """Write the whole search as one PNG."""
    stage = _Stage(story, dpi=130)
    path.parent.mkdir(parents=True, exist_ok=True)
    stage.picture(len(story.steps), finished=True).save(path)


def draw_animation(story: SearchStory, path: Path) -> None:
    """Write the search as a GIF of at most about `MAX_FRAMES` frames that starts again when it has ended."""
    stage = _Stage(story, dpi=72)
    total = sum(_length(step.path) for step in story.steps)
    spacing = max(0.25, total / max(10, MAX_FRAMES - 2 * len(story.steps) - 2))
    frames, here = [], story.start
    for number, step in enumerate(story.steps):
        frames.append(stage.picture(number))
        points = np.vstack([np.asarray([here]), np.asarray(step.path, dtype=float).reshape(-1, 2)])
        frames += [stage.on_the_way(part) for part in _prefixes(points, spacing)]
        here = step.path[-1] if step.path else here
    frames += [stage.picture(len(story.steps)), stage.picture(len(story.steps), finished=True)]
    both = np.vstack([np.asarray(frames[0]), np.asarray(frames[-1])])  # all fog, and none
    palette = Image.fromarray(both).quantize(256, dither=Image.Dither.NONE)
    images = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    durations = [FRAME_MS] * (len(images) - 1) + [LAST_FRAME_MS]
    path.parent.mkdir(parents=True, exist_ok=True)
    images[0].save(path, save_all=True, append_images=images[1:], duration=durations, loop=0, optimize=False)


def _prefixes(points: NDArray[np.float64], spacing: float) -> Iterator[NDArray[np.float64]]:
    """The beginnings of a path (N, 2), each `spacing` m longer than the one before."""
    lengths = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    for reach in np.arange(spacing, lengths[-1], spacing):
        index = int(np.searchsorted(lengths, reach))
        share = (reach - lengths[index - 1]) / (lengths[index] - lengths[index - 1])
        yield np.vstack([points[:index], points[index - 1] + share * (points[index] - points[index - 1])])


class _Stage:
    """A figure whose background is drawn once; fog, path, numbers and the list of actions change."""

    def __init__(self, story: SearchStory, dpi: int) -> None:
        self._story = story
        corners = np.array([point for room in story.house.rooms for point in room.polygon])
        self._low, self._high = corners.min(axis=0) - _MARGIN, corners.max(axis=0) + _MARGIN
        width, height = self._high - self._low
        plan_height = 6.4
        plan_width = float(np.clip(plan_height * width / height, 5.5, 11.0))
        plan_height = min(plan_height, plan_width * height / width)
        size = np.array([plan_width + _PANEL_WIDTH, max(plan_height, 4.0) + 1.5])
        self.figure = Figure(figsize=tuple(size), dpi=dpi, facecolor="white")
        self._canvas = FigureCanvasAgg(self.figure)
        self._plan = self._add_axes(size, 0.15, 0.55, plan_width, plan_height)
        self._panel = self._add_axes(size, plan_width + 0.4, 0.55, _PANEL_WIDTH - 0.45, max(plan_height, 4.0))
        self._footprints = _footprints(story.house, self._grid_axes())
        self._draw_house()
        self._draw_frame()
        self._fog = self._add_fog()
        self._changing: list[Artist] = []
        self._background: Any = None

    def picture(self, step: int, finished: bool = False) -> Image.Image:
        """The state after `step` actions; `finished`: with how it ended."""
        story = self._story
        for artist in self._changing:
            artist.remove()
        self._changing = []
        self._fog.set_data(self._fog_image(story.steps[step - 1].grid if step else story.first_grid))
        points = story.to_house([story.start, *(point for done in story.steps[:step] for point in done.path)])
        self._draw_path(points)
        self._draw_numbers(step)
        self._draw_list(step)
        if finished:
            self._draw_end()
        self._canvas.draw()
        self._background = self._canvas.copy_from_bbox(self.figure.bbox)
        return self._image() if finished else self._with_robot([], points)

    def on_the_way(self, travelled: NDArray[np.float64]) -> Image.Image:
        """The last `picture` with the part (N, 2), world frame, of the next action's path that has been travelled."""
        points = self._story.to_house([(float(x), float(y)) for x, y in travelled])
        return self._with_robot(self._plan.plot(points[:, 0], points[:, 1], color=PATH, lw=2.3), points)

    def _with_robot(self, artists: Sequence[Artist], points: NDArray[np.float64]) -> Image.Image:
        """The background with these artists and the robot at the end of its path (N, 2), house frame."""
        robot = self._plan.plot(*points[-1], "o", ms=11, color="white", mec=INK, mew=2.2)
        self._canvas.restore_region(self._background)
        for artist in (*artists, *robot):
            self._plan.draw_artist(artist)
            artist.remove()
        return self._image()

    def _image(self) -> Image.Image:
        return Image.fromarray(np.asarray(self._canvas.buffer_rgba()).copy()).convert("RGB")

    def _add_axes(self, figure: NDArray[np.float64], left: float, bottom: float, width: float, height: float) -> Axes:
        """Axes at a place in inches."""
        axes = self.figure.add_axes((left / figure[0], bottom / figure[1], width / figure[0], height / figure[1]))
        axes.axis("off")
        return axes

    def _draw_house(self) -> None:
        house, axes = self._story.house, self._plan
        axes.set_xlim(self._low[0], self._high[0])
        axes.set_ylim(self._low[1], self._high[1])
        axes.set_aspect("equal")
        floors = [Polygon(room.polygon, closed=True) for room in house.rooms]
        axes.add_collection(PatchCollection(floors, facecolor=FLOOR, edgecolor="none", zorder=0))
        for openable, colour in ((False, FURNITURE), (True, CONTAINER)):
            pieces = [Polygon(piece.corners, closed=True) for piece in house.furniture if piece.openable is openable]
            axes.add_collection(PatchCollection(pieces, facecolor=colour, edgecolor="#8a7a60", linewidth=0.6, zorder=1))
        segments = [(wall.a, wall.b) for wall in house.walls]
        axes.add_collection(LineCollection(segments, colors=WALL, linewidths=3.2, zorder=4, capstyle="projecting"))
        for door, (a, b) in zip(house.doors, house.door_segments):
            axes.plot(*zip(a, b), color=FLOOR, lw=4.2, zorder=4.2, solid_capstyle="butt")
            if not door.is_passage:
                end = _swung(a, b) if door.open else b
                colour = DOOR if door.openable else LOCKED
                axes.plot(*zip(a, end), color=colour, lw=3.0, zorder=4.4, solid_capstyle="butt")
        for room in house.rooms:
            text = axes.text(
                *self._label_position(room), normalise(room.type), fontsize=10, color="#5b6072", ha="center",
                va="center", style="italic", zorder=7.2, **_PLAIN,
            )  # fmt: skip
            text.set_path_effects([patheffects.withStroke(linewidth=2.5, foreground="white", alpha=0.8)])

    def _label_position(self, room: HouseRoom) -> Point2:
        """The point of a room that is farthest from its walls, its furniture and the path."""
        xs, ys = self._grid_axes()
        free = _inside(xs, ys, room.polygon)
        for piece, mask in zip(self._story.house.furniture, self._footprints):
            if piece.room == room.id:
                free &= ~mask
        ends = [self._story.start, *(point for step in self._story.steps for point in step.path)]
        for x, y in self._story.to_house(ends):
            free[int((y - ys[0]) / _CELL), int((x - xs[0]) / _CELL)] = False
        # Labels are wide: what lies beside them counts for more than what lies above.
        clearance = ndimage.distance_transform_edt(np.pad(free, 1), sampling=(2.0, 1.0))[1:-1, 1:-1]
        row, column = np.unravel_index(int(clearance.argmax()), clearance.shape)
        return float(xs[column]), float(ys[row])

    def _draw_frame(self) -> None:
        """Headline, legend and scale bar."""
        story, figure = self._story, self.figure
        width, height = figure.get_size_inches()
        title = f"Find the {story.target}"
        figure.text(0.2 / width, 1 - 0.33 / height, title, fontsize=16, weight="bold", color=INK, va="center", **_PLAIN)
        handles = [
            Patch(facecolor=FLOOR, edgecolor="#b0b0b0", label="seen"),
            Patch(facecolor=_blend(FOG, FOG_DENSITY), edgecolor="#b0b0b0", label="not seen"),
            Patch(facecolor=CONTAINER, edgecolor="#8a7a60", label="container"),
            Patch(facecolor=FURNITURE, edgecolor="#8a7a60", label="furniture"),
            Line2D([], [], color=DOOR, lw=3, label="door"),
            Line2D([], [], color=PATH, lw=2.5, label="path"),
            Line2D([], [], marker="s", ls="", color=INK, ms=7, label="start"),
            Line2D([], [], marker="*", ls="", color=STAR, mec=INK, mew=0.6, ms=13, label="target"),
        ]
        for kind, word in KIND_WORD.items():
            if any(step.kind is kind for step in story.steps):
                handles.append(Line2D([], [], marker="o", ls="", color=KIND_COLOUR[kind], ms=9, label=word))
        figure.legend(
            handles=handles, loc="lower left", bbox_to_anchor=(0.1 / width, 0.05 / height), ncol=len(handles),
            fontsize=8.5, frameon=False, handletextpad=0.5, columnspacing=1.3, handlelength=1.3,
        )  # fmt: skip
        x, y = self._high[0] - _MARGIN - 2.0, self._low[1] + _MARGIN * 0.42
        self._plan.plot([x, x + 2.0], [y, y], color=INK, lw=2.2, solid_capstyle="butt", zorder=6)
        self._plan.text(x - 0.1, y, "2 m", fontsize=8.5, color=INK, ha="right", va="center", zorder=6)

    def _add_fog(self) -> AxesImage:
        image = self._fog_image(self._story.first_grid)
        rows, columns = image.shape[:2]
        extent = (self._low[0], self._low[0] + columns * _CELL, self._low[1], self._low[1] + rows * _CELL)
        fog = self._plan.imshow(image, extent=extent, origin="lower", interpolation="bilinear", zorder=3)
        vertices: list[Point2] = []
        codes: list[int] = []
        for room in self._story.house.rooms:
            vertices += [*room.polygon, room.polygon[0]]
            codes += [MplPath.MOVETO, *[MplPath.LINETO] * (len(room.polygon) - 1), MplPath.CLOSEPOLY]
        outline = PathPatch(
            MplPath(vertices, codes), facecolor="none", edgecolor="none", transform=self._plan.transData
        )
        fog.set_clip_path(outline)
        return fog

    def _grid_axes(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """x of the columns and y of the rows of the picture's cells, m, house frame."""
        columns, rows = (math.ceil(extent / _CELL) for extent in self._high - self._low)
        return self._low[0] + (np.arange(columns) + 0.5) * _CELL, self._low[1] + (np.arange(rows) + 0.5) * _CELL

    def _fog_image(self, grid: OccupancyGrid) -> NDArray[np.float64]:
        """(H, W, 4): fog where the house is unexplored."""
        xs, ys = self._grid_axes()
        columns = np.floor((xs - self._story.origin[0] - grid.origin[0]) / grid.resolution).astype(int)
        rows = np.floor((ys - self._story.origin[1] - grid.origin[1]) / grid.resolution).astype(int)
        inside = ((rows >= 0) & (rows < grid.shape[0]))[:, None] & ((columns >= 0) & (columns < grid.shape[1]))
        within = np.ix_(np.clip(rows, 0, grid.shape[0] - 1), np.clip(columns, 0, grid.shape[1] - 1))
        seen = inside & (grid.data[within] != UNKNOWN)
        seen |= ndimage.binary_closing(seen, iterations=2)  # specks between two rays
        for mask in self._footprints:
            if seen[mask].mean() > _SEEN_SHARE:
                seen |= mask
        image = np.zeros((*seen.shape, 4))
        image[..., :3] = to_rgb(FOG)
        image[..., 3] = FOG_DENSITY * ~seen
        return image

    def _draw_path(self, points: NDArray[np.float64]) -> None:
        casing = patheffects.withStroke(linewidth=4.6, foreground="white", alpha=0.9)
        self._changing += self._plan.plot(
            points[:, 0], points[:, 1], color=PATH, lw=2.3, zorder=6.5, solid_joinstyle="round", path_effects=[casing]
        )
        for (x, y), angle in _arrows(points):
            self._changing += self._plan.plot(
                x, y, marker=(3, 0, math.degrees(angle) - 90), ms=7, color=PATH, mec="white", mew=0.7, zorder=6.6
            )
        start = self._story.to_house([self._story.start])[0]
        self._changing += self._plan.plot(*start, "s", ms=9, color=INK, mec="white", mew=1.2, zorder=7)

    def _draw_numbers(self, count: int) -> None:
        """The number of each action where it ended, moved apart where several ended in one place."""
        story = self._story
        if not count:
            return
        ends = story.to_house(_ends(story)[:count])
        places = _spread(ends, _MARKER_GAP)
        for number, (step, end, place) in enumerate(zip(story.steps, ends, places), start=1):
            if np.hypot(*(place - end)) > 0.15:
                self._changing += self._plan.plot(*zip(end, place), color=INK, lw=0.8, zorder=7.4)
                self._changing += self._plan.plot(*end, "o", ms=2.6, color=INK, zorder=7.4)
            self._changing += self._plan.plot(
                *place, "o", ms=14.5, color=KIND_COLOUR[step.kind], mec="white", mew=1.3, zorder=8
            )
            self._changing.append(
                self._plan.text(
                    *place,
                    str(number),
                    fontsize=8.5,
                    color="white",
                    weight="bold",
                    ha="center",
                    va="center_baseline",
                    zorder=8.1,
                )
            )

    def _draw_end(self) -> None:
        """How it ended, and the target."""
        story = self._story
        width, height = self.figure.get_size_inches()
        line = story.headline + (f" · planned by {story.planner}" if story.planner else "")
        size = 11 * min(1.0, (width - 0.4) / (0.088 * len(line)))  # a letter of size 11 is about 0.088 in wide
        at = (0.2 / width, 1 - 0.68 / height)
        self._changing.append(self.figure.text(*at, line, fontsize=size, color="#4a4f60", va="center", **_PLAIN))
        if story.found is None:
            return
        x, y = story.to_house([story.found])[0]
        self._changing += self._plan.plot(x, y, "*", ms=22, color=STAR, mec=INK, mew=1.0, zorder=9.5)
        side = 1 if x < (self._low[0] + self._high[0]) / 2 else -1
        below = -1 if y > self._high[1] - 1.5 else 1
        box = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": STAR, "linewidth": 1.4}
        label = self._plan.annotate(
            story.found_name or story.target, (x, y), xytext=(side * 16, below * 18), textcoords="offset points",
            fontsize=10, weight="bold", color=INK, ha="left" if side > 0 else "right", va="center", bbox=box,
            zorder=9.6, **_PLAIN,
        )  # fmt: skip
        self._changing.append(label)

    def _draw_list(self, count: int) -> None:
        """The actions so far, numbered as in the plan; in two columns when they are many."""
        steps = self._story.steps
        columns = 1 if len(steps) <= _ROWS else 2
        rows = max(_ROWS, math.ceil(len(steps) / columns))
        size, length = (9.0, 42) if columns == 1 else (7.0, 26)
        for number, step in enumerate(steps[:count], start=1):
            column, row = divmod(number - 1, rows)
            x, y = column * 0.5, 1.0 - (row + 0.5) / rows
            style = {"fontsize": size, "va": "center"}
            colour = KIND_COLOUR[step.kind]
            words = step.command if columns == 1 else _in_short(step)
            words = words if step.success else f"failed: {words}"
            words = words if len(words) <= length else words[: length - 1] + "…"
            self._changing.append(
                self._panel.text(x + 0.06, y, str(number), color=colour, weight="bold", ha="right", **style)
            )
            self._changing.append(self._panel.text(x + 0.085, y, words, color=INK, **style, **_PLAIN))


def _in_short(step: StoryStep) -> str:
    """A command in fewer letters: `open fridge, kitchen`."""
    arguments = step.command.partition("(")[2].rstrip(")").split(", ")
    return f"{KIND_WORD.get(step.kind, step.kind.verb)} {', '.join(reversed(arguments))}"


def _ends(story: SearchStory) -> list[Point2]:
    """Where each action ended: its path's end, or that of the action before when it did not move."""
    here, ends = story.start, []
    for step in story.steps:
        here = step.path[-1] if step.path else here
        ends.append(here)
    return ends


def _length(points: Sequence[Point2]) -> float:
    return sum(math.dist(a, b) for a, b in pairwise(points))


def _spread(points: NDArray[np.float64], gap: float) -> NDArray[np.float64]:
    """Push points (N, 2) apart until any two are `gap` apart; each stays near where it was. Deterministic."""
    places = points.copy()
    angles = np.arange(len(places)) * 2.399963  # the golden angle: equal points leave in different directions
    places += 1e-3 * np.column_stack([np.cos(angles), np.sin(angles)])
    for _ in range(200):
        offsets = places[:, None] - places[None, :]
        distances = np.hypot(offsets[..., 0], offsets[..., 1]) + np.eye(len(places)) * gap * 2
        close = distances < gap
        if not close.any():
            break
        push = np.where(close, (gap - distances) / distances, 0.0)[..., None] * offsets
        places += 0.35 * push.sum(axis=1)
    return places


def _arrows(points: NDArray[np.float64], spacing: float = 2.5) -> Iterator[tuple[Point2, float]]:
    """((x, y), direction in rad) every `spacing` m of a path (N, 2)."""
    if len(points) < 2:
        return
    steps = np.diff(points, axis=0)
    lengths = np.concatenate([[0.0], np.cumsum(np.hypot(*steps.T))])
    for reach in np.arange(spacing / 2, lengths[-1], spacing):
        index = int(np.searchsorted(lengths, reach)) - 1
        share = (reach - lengths[index]) / (lengths[index + 1] - lengths[index])
        x, y = points[index] + share * steps[index]
        ahead = points[min(index + 4, len(points) - 1)] - points[max(index - 2, 0)]
        yield (float(x), float(y)), math.atan2(ahead[1], ahead[0])


def _swung(a: Point2, b: Point2) -> Point2:
    """The free end of an open leaf that hangs at `a` and closes towards `b`: turned by 80°, at most a leaf long."""
    c, s = math.cos(math.radians(80)), math.sin(math.radians(80))
    scale = min(1.0, _LEAF / max(math.dist(a, b), 1e-9))
    dx, dy = scale * (b[0] - a[0]), scale * (b[1] - a[1])
    return (a[0] + c * dx - s * dy, a[1] + s * dx + c * dy)


def _inside(xs: NDArray[np.float64], ys: NDArray[np.float64], polygon: Sequence[Point2]) -> NDArray[np.bool_]:
    """(H, W): which of the points (xs[column], ys[row]) lie in a polygon."""
    points = np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)
    return np.asarray(MplPath([*polygon, polygon[0]]).contains_points(points)).reshape(len(ys), len(xs))


def _footprints(house: House, axes: tuple[NDArray[np.float64], NDArray[np.float64]]) -> list[NDArray[np.bool_]]:
    """For each piece of furniture the cells (H, W) that it covers."""
    return [_inside(*axes, piece.corners) for piece in house.furniture]


def _blend(colour: str, alpha: float) -> tuple[float, ...]:
    """A colour over the floor, as the legend shows it."""
    top, bottom = (np.asarray(to_rgb(c)) for c in (colour, FLOOR))
    return tuple(alpha * top + (1 - alpha) * bottom)
