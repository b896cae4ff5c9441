"""Pictures of a house from above: rooms, furniture, objects, and what a robot has explored of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Polygon

from smallplan_planner.mapping.occupancy import UNKNOWN
from smallplan_training.simulators.house.house import House
from smallplan_training.simulators.house.raster import RESOLUTION
from smallplan_training.simulators.house.robot import SimulatedRobot

ROOM_COLOURS = (
    "#f6efe0",
    "#e6eef7",
    "#eaf4e4",
    "#f7e6ea",
    "#efe9f7",
    "#f4f4df",
    "#e3f3f1",
    "#f5ebe3",
    "#ececec",
    "#fdf1d8",
)


def draw_house(axes: Axes, house: House, objects: bool = True) -> None:
    """The house in its own frame: containers brown, other furniture grey, things in them red, on them blue."""
    for index, room in enumerate(house.rooms):
        axes.add_patch(Polygon(room.polygon, facecolor=ROOM_COLOURS[index % len(ROOM_COLOURS)], edgecolor="none"))
        x, y = np.mean(room.polygon, axis=0)
        axes.text(x, y, room.type, ha="center", va="center", fontsize=8, color="#555555", zorder=6)
    for wall in house.walls:
        axes.plot(*zip(wall.a, wall.b), color="#222222", linewidth=2.5, solid_capstyle="butt", zorder=3)
    for door, (a, b) in zip(house.doors, house.door_segments):
        colour = "#bbbbbb" if door.is_passage else "#2a9d3a" if door.open else "#c0392b" if door.openable else "#000000"
        axes.plot(*zip(a, b), color=colour, linewidth=4, solid_capstyle="butt", zorder=4)
    for piece in house.furniture:
        colour = "#d8b384" if piece.openable else "#cfcfcf"
        axes.add_patch(Polygon(piece.corners, facecolor=colour, edgecolor="#666666", linewidth=0.5, zorder=2))
        axes.text(*piece.position, piece.category, ha="center", va="center", fontsize=3.5, zorder=5)
    for item in house.objects if objects else ():
        axes.plot(
            *item.position[:2], ".", color="#c0392b" if item.relation == "in" else "#1f5fa8", markersize=3, zorder=5
        )
    axes.set_aspect("equal")
    axes.autoscale_view()
    axes.axis("off")


def draw_explored(axes: Axes, robot: SimulatedRobot) -> None:
    """Darken what the robot has not seen, over `draw_house` of its house; mark where it is."""
    unseen = np.where(robot.perception.known == UNKNOWN, 0.45, 0.0)
    shade = np.zeros((*unseen.shape, 4))
    shade[..., 3] = unseen
    raster = robot.state.raster
    height, width = unseen.shape
    x, y = raster.corner
    limits = axes.get_xlim(), axes.get_ylim()
    extent = (x, x + width * RESOLUTION, y, y + height * RESOLUTION)
    axes.imshow(shade, origin="lower", extent=extent, zorder=7, interpolation="nearest")
    axes.set_xlim(*limits[0])
    axes.set_ylim(*limits[1])
    at = raster.centre(*robot.perception.to_cell(robot.pose.x, robot.pose.y))
    axes.plot(*at, "o", color="#f39c12", markeredgecolor="black", markersize=7, zorder=9)


def save_plan_view(house: House, path: str | Path, robot: SimulatedRobot | None = None) -> None:
    """Write the plan view of a house, with what a robot has explored if one is given, as an image."""
    figure = Figure(figsize=(11, 8), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    draw_house(axes, house)
    if robot is not None:
        draw_explored(axes, robot)
    canvas.print_figure(str(path), dpi=110)
