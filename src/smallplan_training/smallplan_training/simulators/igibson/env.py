"""The search environment over iGibson: the embedded one with a robot that drives, looks and opens in a worker process.

Episodes, actions, mapping, scene graph, rewards and `info` are those of `HouseSearchEnv`; see there. A worker serves
all episodes of one house; another house, or a worker that died, means another worker.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smallplan_training.simulators.house.env import HouseSearchEnv
from smallplan_training.simulators.house.episodes import Episode
from smallplan_training.simulators.house.house import House
from smallplan_training.simulators.igibson.camera_robot import CameraRobot
from smallplan_training.simulators.igibson.client import CameraConfig, IGibsonClient, WorkerCommand, WorkerDied
from smallplan_training.simulators.igibson.environment import (
    assets_folder,
    find_environment,
    make_assets_folder,
    worker_environ,
)
from smallplan_training.simulators.igibson.scenes import IGibsonScene, scene_of, to_place, with_places

log = logging.getLogger(__name__)

FindScene = Callable[[House], IGibsonScene]
MakeClient = Callable[[IGibsonScene], IGibsonClient]


def start_client(scene: IGibsonScene, camera: CameraConfig | None = None) -> IGibsonClient:
    """A client for a scene; its worker starts with the first request. Raises `UserError` where there is no iGibson."""
    if not os.environ.get("GIBSON_ASSETS_PATH"):  # iGibson doesn't start without; a cache may be emptied
        make_assets_folder(assets_folder())
    command = WorkerCommand(find_environment().python, worker_environ(scene.dataset))
    return IGibsonClient(command, scene.scene, camera)


class IGibsonSearchEnv(HouseSearchEnv):
    """A robot with a camera searches a scene of iGibson.

    Args:
        find_scene: where iGibson finds a house.
        make_client: the way to a worker that has a scene.
        arguments: those of `HouseSearchEnv`.

    `reset` and `step` raise `EpisodeLost` when the worker dies; `reset` tries once with a new one before.
    """

    def __init__(
        self,
        *args: Any,
        find_scene: FindScene = scene_of,
        make_client: MakeClient = start_client,
        **arguments: Any,
    ) -> None:
        super().__init__(*args, **arguments)
        self._find_scene, self._make_client = find_scene, make_client
        self._client: IGibsonClient | None = None
        self._scene: IGibsonScene | None = None

    @property
    def picture(self) -> NDArray[np.uint8] | None:
        """(H, W, 3) RGB: what the robot's camera has shown last."""
        self.episode  # noqa: B018
        return self._camera_robot.picture

    @property
    def client(self) -> IGibsonClient:
        """The way to the worker of this episode."""
        assert self._client is not None, "no episode yet: call reset() first"
        return self._client

    @property
    def scene(self) -> IGibsonScene:
        """The scene of this episode."""
        assert self._scene is not None, "no episode yet: call reset() first"
        return self._scene

    def close(self) -> None:
        """End the worker. May be called again; `reset` starts another one."""
        if self._client is not None:
            self._client.close()
        self._client = self._scene = None

    def _new_robot(self, episode: Episode, seed: int) -> CameraRobot:
        try:
            self._camera_robot = self._begin(episode, seed)
        except WorkerDied as error:
            log.warning("once more with another worker: %s", error)
            self._camera_robot = self._begin(episode, seed)
        return self._camera_robot

    def _begin(self, episode: Episode, seed: int) -> CameraRobot:
        scene, client = self._client_for(episode.house)
        start = episode.raster.centre(*episode.raster.cell(episode.start.x, episode.start.y))
        places = client.begin(to_place(episode, scene), (*start, episode.start.yaw))
        return CameraRobot(
            client, with_places(episode, scene, places), episode.start, seed, self._failure_rate, client.robot_radius
        )

    def _client_for(self, house: House) -> tuple[IGibsonScene, IGibsonClient]:
        scene = self._find_scene(house)
        if self._client is None or (self._scene is not None and scene != self._scene):
            self.close()
            self._scene, self._client = scene, self._make_client(scene)
        return scene, self._client
