"""Renders one frame with iGibson's renderer and compares it with what must be seen: `igibson_check.py [PNG]`.

Runs in iGibson's environment (Python 3.8 on) and needs no data: a red cube of 1 m, 2 m in front of the camera. Ends
with exit code 0 and one line (which device rendered), or raises.
"""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
from pathlib import Path

SIZE = 64  # pixels
DISTANCE = 2.0  # m from the camera to the cube's face
FACES = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))


def write_cube(folder: Path) -> Path:
    """A cube of 1 m around the origin, as Wavefront OBJ."""
    corners = itertools.product((-0.5, 0.5), repeat=3)
    lines = ["mtllib cube.mtl", "usemtl red", *("v {} {} {}".format(*corner) for corner in corners)]
    for face in FACES:
        first, second, third, fourth = (index + 1 for index in face)
        lines += [f"f {first} {second} {third}", f"f {first} {third} {fourth}"]
    (folder / "cube.mtl").write_text("newmtl red\nKd 1 0 0\n")
    path = folder / "cube.obj"
    path.write_text("\n".join(lines) + "\n")
    return path


def render(picture: str | None) -> str:
    """Render the cube, optionally into a PNG; returns the name of the device."""
    import numpy as np
    from igibson.render.mesh_renderer.mesh_renderer_cpu import MeshRenderer
    from igibson.render.mesh_renderer.mesh_renderer_settings import MeshRendererSettings
    from PIL import Image

    settings = MeshRendererSettings(enable_pbr=False, enable_shadow=False, msaa=False)
    renderer = MeshRenderer(width=SIZE, height=SIZE, vertical_fov=60, rendering_settings=settings)
    with tempfile.TemporaryDirectory() as folder:
        renderer.load_object(str(write_cube(Path(folder))))
    renderer.add_instance_group([0], class_id=7)
    renderer.set_camera([-DISTANCE - 0.5, 0, 0], [0, 0, 0], [0, 0, 1])
    colour, points, classes = renderer.render(modes=("rgb", "3d", "seg"))
    if picture:
        Image.fromarray((colour[..., :3].clip(0, 1) * 255).astype(np.uint8)).save(picture)
    centre = (SIZE // 2, SIZE // 2)
    seen = {
        "depth": float(-points[centre][2]),
        "class": round(float(classes[centre][0]) * 512),
        "red": bool(colour[centre][0] > 0.3 and colour[centre][1] < 0.1),
        "background": float(np.abs(points[0, 0, :3]).sum()),
    }
    if abs(seen["depth"] - DISTANCE) > 0.01 or seen["class"] != 7 or not seen["red"] or seen["background"] != 0:
        raise RuntimeError(f"a red cube of class 7 at {DISTANCE} m was drawn, and this was seen: {seen}")
    device = renderer.glstring
    renderer.release()
    return str(device)


def main() -> int:
    """Render; print the device on the standard output."""
    # iGibson's libraries write to the standard output themselves: only the last line there is for the caller.
    answer = os.dup(1)
    os.dup2(2, 1)
    device = render(sys.argv[1] if len(sys.argv) > 1 else None)
    os.write(answer, (" ".join(device.split()) + "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
