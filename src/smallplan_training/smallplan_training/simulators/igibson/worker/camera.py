"""The camera on the robot's head: depth and instances of whatever direction it is turned to.

A frame is rendered by iGibson's mesh renderer, without shadows, PBR and anti-aliasing, which would blur instances.
Camera matrices are camera to scene, in the convention x right, y down, z forward.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from igibson.render.mesh_renderer.mesh_renderer_settings import MeshRendererSettings
from igibson.simulator import Simulator

from .robots import Robot
from .scene import PHYSICS_STEP, SceneInPhysics
from .server import RequestError

NOTHING = 65535
"""The instance id of pixels that show nothing."""
_ID_SCALE = 1024  # iGibson's MAX_INSTANCE_COUNT: ids are colours in steps of 1 / 1024
_NEAR = 0.05  # m
_SKY = (0.86, 0.9, 0.94)  # RGB where nothing is: there are no ceilings


class Camera:
    """`field_of_view`: of the frame's width, rad."""

    def __init__(self, width: int, height: int, field_of_view: float) -> None:
        if not (16 <= width <= 4096 and 16 <= height <= 4096 and 0.1 <= field_of_view <= 3.0):
            raise RequestError(f"a camera of {width} x {height} pixels and {field_of_view} rad")
        self._width, self._height = width, height
        self._focal = width / 2 / math.tan(field_of_view / 2)  # pixels

    def new_simulator(self) -> Simulator:
        """An iGibson simulator that renders for this camera."""
        vertical = 2 * math.atan(self._height / 2 / self._focal)
        return Simulator(
            mode="headless",
            image_width=self._width,
            image_height=self._height,
            vertical_fov=math.degrees(vertical),
            physics_timestep=PHYSICS_STEP,
            render_timestep=4 * PHYSICS_STEP,
            rendering_settings=MeshRendererSettings(enable_pbr=False, enable_shadow=False, msaa=False),
        )

    def attach(self, scene: SceneInPhysics, robot: Robot, pitch: float) -> None:
        """Mount it on a robot, bent down by `pitch` rad."""
        self._scene, self._robot, self._pitch = scene, robot, pitch
        self._renderer = scene.simulator.renderer
        self._renderer.set_z_near_z_far(_NEAR, self._renderer.zfar)
        self._renderer.set_fov(self._renderer.vertical_fov)  # takes the near plane up

    def look(self, yaws: Sequence[float], picture: bool) -> tuple[dict[str, np.ndarray], dict[str, tuple[str, str]]]:
        """Frames in the directions `yaws`, rad, and (name, category) of each instance id.

        Arrays: depth float32 (K, H, W) in m along the optical axis, 0 = nothing; ids uint16 (K, H, W); cameras
        (K, 4, 4); intrinsics (4,) fx, fy, cx, cy in pixels; with `picture` also pictures uint8 (K, H, W, 3).
        """
        renderer = self._renderer
        if len(renderer.instances) >= _ID_SCALE:
            raise RequestError(f"{len(renderer.instances)} instances; iGibson tells at most {_ID_SCALE} apart")
        self._scene.simulator.sync(force_sync=True)
        modes = ("3d", "ins_seg", "rgb", "normal") if picture else ("3d", "ins_seg")
        position = np.asarray(self._robot.camera_position(), dtype=float)
        depths, ids, cameras, pictures = [], [], [], []
        for yaw in yaws:
            camera = _camera_matrix(position, yaw, self._pitch)
            renderer.set_camera(position, position + camera[:3, 2], [0, 0, 1])
            buffers = renderer.render(modes=modes, hidden=self._robot.renderer_instances, render_text_pass=False)
            depth = np.ascontiguousarray(-buffers[0][..., 2], dtype=np.float32)
            numbers = np.rint(buffers[1][..., 0] * _ID_SCALE).astype(np.uint16)
            nothing = depth <= 0
            depth[nothing], numbers[nothing] = 0.0, NOTHING
            depths.append(depth)
            ids.append(numbers)
            cameras.append(camera)
            if picture:
                pictures.append(_picture(buffers[2][..., :3], buffers[3][..., :3], camera, nothing))
        arrays = {
            "depth": np.stack(depths),
            "ids": np.stack(ids),
            "cameras": np.stack(cameras),
            "intrinsics": np.array([self._focal, self._focal, self._width / 2, self._height / 2]),
        }
        if picture:
            arrays["pictures"] = np.stack(pictures)
        return arrays, self._instances(np.unique(arrays["ids"]))

    def _instances(self, seen: np.ndarray) -> dict[str, tuple[str, str]]:
        by_id = {instance.id: instance.ig_object for instance in self._renderer.instances}
        found: list[tuple[int, object]] = [(int(number), by_id.get(int(number))) for number in seen]
        return {
            str(number): (getattr(thing, "name", ""), getattr(thing, "category", ""))
            for number, thing in found
            if thing is not None
        }


def _picture(colours: np.ndarray, normals: np.ndarray, camera: np.ndarray, nothing: np.ndarray) -> np.ndarray:
    """(H, W, 3) RGB for people. Without PBR the renderer draws all upright faces equally bright, and corners vanish."""
    across = np.abs((normals * 2 - 1) @ (camera[0, :3] * (1, -1, -1)))  # how far a face looks along the scene's x
    shaded = np.clip(colours * (1.15 + 0.3 * across[..., None]), 0, 1)
    shaded[nothing] = _SKY
    return (shaded * 255).astype(np.uint8)


def _camera_matrix(position: np.ndarray, yaw: float, pitch: float) -> np.ndarray:
    forward = np.array([math.cos(yaw) * math.cos(pitch), math.sin(yaw) * math.cos(pitch), -math.sin(pitch)])
    right = np.array([math.sin(yaw), -math.cos(yaw), 0.0])
    matrix = np.eye(4)
    matrix[:3, 0], matrix[:3, 1], matrix[:3, 2] = right, np.cross(forward, right), forward
    matrix[:3, 3] = position
    return matrix
