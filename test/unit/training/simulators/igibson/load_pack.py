"""Run by iGibson's own Python: loads a scene and prints as JSON what iGibson made of it.

python load_pack.py SCENE FILE.json
"""

import json
import sys

import numpy as np
import pybullet
from igibson.render.mesh_renderer.mesh_renderer_settings import MeshRendererSettings
from igibson.scenes.igibson_indoor_scene import InteractiveIndoorScene
from igibson.simulator import Simulator

SECOND = 30  # steps


def joints_of(thing):
    """Name -> position and upper limit of each joint of a thing."""
    found = {}
    for body in thing.get_body_ids():
        for joint in range(pybullet.getNumJoints(body)):
            info = pybullet.getJointInfo(body, joint)
            found[info[1].decode()] = [pybullet.getJointState(body, joint)[0], info[9]]
    return found


def main():
    """Load the scene, let a second pass, and write down what is where."""
    settings = MeshRendererSettings(enable_pbr=False, enable_shadow=False, msaa=False)
    simulator = Simulator(mode="headless", image_width=64, image_height=64, rendering_settings=settings)
    scene = InteractiveIndoorScene(sys.argv[1], build_graph=True)
    simulator.import_scene(scene)
    before = {name: thing.get_position() for name, thing in scene.objects_by_name.items()}
    for _ in range(SECOND):
        simulator.step()
    things = {}
    for name, thing in scene.objects_by_name.items():
        position = thing.get_position()
        things[name] = {
            "category": thing.category,
            "rooms": thing.in_rooms,
            "room_at": scene.get_room_instance_by_point(np.array(position[:2])),
            "moved": float(np.linalg.norm(position - before[name])),
            "joints": joints_of(thing),
        }
    with open(sys.argv[2], "w") as file:
        json.dump({"things": things, "rooms": sorted(scene.room_ins_name_to_ins_id)}, file)
    simulator.disconnect()


if __name__ == "__main__":
    main()
