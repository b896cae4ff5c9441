"""From what a robot has sensed, an occupancy grid and detections, to the scene graph that it plans on."""

from smallplan_planner.mapping.builder import SceneGraphBuilder
from smallplan_planner.mapping.detections import Detection, DoorDetection
from smallplan_planner.mapping.occupancy import FREE, OCCUPIED, UNKNOWN, DistanceField, OccupancyGrid

__all__ = [
    "FREE",
    "OCCUPIED",
    "UNKNOWN",
    "Detection",
    "DistanceField",
    "DoorDetection",
    "OccupancyGrid",
    "SceneGraphBuilder",
]
