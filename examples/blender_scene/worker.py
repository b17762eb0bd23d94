"""Blender as a persistent worker for zo.Program: parameters in, a rendered picture out.

Started by Python, it hands over to Blender, or goes on by itself where pip's ``bpy`` is installed. Each line on stdin
is answered with one line and the picture as raw float32 numbers, scene-linear, of shape (size, size, 3), top row first.
"""

import array
import itertools
import json
import math
import os
import shutil
import sys
from pathlib import Path
from typing import Any

MISSING = "Blender is needed: `apt-get install --no-install-recommends blender`, or `pip install bpy`."
ANSWERS = 3
"""The file descriptor of the answers: Blender itself prints to stdout, which would break the protocol."""
TEXTURES = ("bands", "rings", "cells", "clouds")
SHADERS = {"bands": "Wave", "rings": "Wave", "cells": "Voronoi", "clouds": "Noise"}

try:
    import bpy
    from mathutils import Vector
except ImportError:
    bpy = None


def command(python: str | None = None) -> list[str]:
    """The words that start a worker.

    Args:
        python: A Python that has ``bpy``, in place of this one and of the ``blender`` command.

    Raises:
        SystemExit: When there is no Blender.
    """
    if python is None and bpy is None and shutil.which("blender") is None:
        raise SystemExit(MISSING)
    return [python or sys.executable, os.path.abspath(__file__)]


class Scene:
    """A row of bevelled blocks on a patterned floor, under one lamp.

    Args:
        threads: Threads of the renderer.
    """

    def __init__(self, threads: int) -> None:
        bpy.ops.wm.read_factory_settings(use_empty=True)
        self.scene = bpy.context.scene
        self._render_with(threads)
        self._add_blocks()
        self._add_floor()
        lamp = bpy.data.lights.new("lamp", "AREA")
        lamp.size = 0.6
        self.lamp, self.camera = self._added("lamp", lamp), self._added("camera", bpy.data.cameras.new("camera"))
        self.scene.camera = self.camera
        self.scene.world = bpy.data.worlds.new("world")
        self.scene.world.use_nodes = True
        self.scene.world.node_tree.nodes["Background"].inputs["Color"].default_value = (0.25, 0.28, 0.32, 1.0)

    def render(self, told: dict[str, Any], seed: int, scratch: str) -> array.array:
        """The picture of these parameters.

        Args:
            told: The parameters; ``size``, ``samples`` and ``seed`` may be among them.
            seed: Of the sampler, where ``told`` has none.
            scratch: A directory for the picture's file.
        """
        self._lay_out(told)
        self._paint(told)
        self._light(told)
        size = int(told.get("size", 64))
        self.scene.render.resolution_x = self.scene.render.resolution_y = size
        self.scene.cycles.samples = int(told.get("samples", 16))
        self.scene.cycles.seed = int(told.get("seed", seed))
        path = os.path.join(scratch, "picture.exr")
        self.scene.render.filepath = path
        bpy.ops.render.render(write_still=True)
        return _read(path, size)

    def _render_with(self, threads: int) -> None:
        render = self.scene.render
        render.engine, render.resolution_percentage = "CYCLES", 100
        render.threads_mode, render.threads = "FIXED", threads
        render.image_settings.file_format, render.image_settings.exr_codec = "OPEN_EXR", "NONE"
        render.image_settings.color_depth = "32"
        cycles = self.scene.cycles
        cycles.use_adaptive_sampling = cycles.use_denoising = False
        cycles.max_bounces = 3

    def _added(self, name: str, data: Any) -> Any:
        made = bpy.data.objects.new(name, data)
        self.scene.collection.objects.link(made)
        return made

    def _add_blocks(self) -> None:
        corners = list(itertools.product((-0.25, 0.25), repeat=3))
        faces = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
        mesh = bpy.data.meshes.new("block")
        mesh.from_pydata(corners, [], faces)
        self.block = self._added("block", mesh)
        self.bevel, self.array = (self.block.modifiers.new(name, name) for name in ("BEVEL", "ARRAY"))
        self.array.use_relative_offset, self.array.use_constant_offset = False, True
        self.enamel = _material("enamel", mesh).nodes["Principled BSDF"]
        self.enamel.inputs["Roughness"].default_value = 0.5

    def _add_floor(self) -> None:
        mesh = bpy.data.meshes.new("floor")
        mesh.from_pydata([(-20, -20, 0), (20, -20, 0), (20, 20, 0), (-20, 20, 0)], [], [(0, 1, 2, 3)])
        self._added("floor", mesh)
        self.tree = _material("floor", mesh)
        surface = self.tree.nodes["Principled BSDF"]
        surface.inputs["Roughness"].default_value = 0.8
        place = self.tree.nodes.new("ShaderNodeTexCoord").outputs["Object"]
        self.textures = {}
        for name, kind in SHADERS.items():
            node = self.tree.nodes.new(f"ShaderNodeTex{kind}")
            self.tree.links.new(place, node.inputs["Vector"])
            self.textures[name] = node
        self.textures["rings"].wave_type, self.textures["rings"].rings_direction = "RINGS", "Z"
        self.ramp = self.tree.nodes.new("ShaderNodeValToRGB")
        self.ramp.color_ramp.interpolation = "CONSTANT"  # a hard edge: no slope anywhere but at it
        self.tree.links.new(self.ramp.outputs["Color"], surface.inputs["Base Color"])

    def _lay_out(self, told: dict[str, Any]) -> None:
        self.array.count, self.bevel.segments = int(told["count"]), int(told["segments"])
        self.bevel.width = told["bevel"]
        self.array.constant_offset_displace = (told["spacing"], 0.0, 0.0)
        self.block.location = (-1.5, 0.0, 0.25 * told["height"])
        self.block.scale = (1.0, 1.0, told["height"])

    def _paint(self, told: dict[str, Any]) -> None:
        self.enamel.inputs["Base Color"].default_value = (*told["paint"], 1.0)
        texture = self.textures[told["texture"]]
        texture.inputs["Scale"].default_value = told["scale"]
        self.tree.links.new(texture.outputs[1 if texture.type == "TEX_WAVE" else 0], self.ramp.inputs["Fac"])
        first, second = self.ramp.color_ramp.elements
        first.position, second.position = 0.0, told["edge"]
        first.color, second.color = (*told["dark"], 1.0), (*told["light"], 1.0)

    def _light(self, told: dict[str, Any]) -> None:
        self.lamp.data.energy = told["power"]
        _aim(self.lamp, told["lamp_turn"], told["lamp_rise"], 5.0)
        _aim(self.camera, told["camera_turn"], told["camera_rise"], 5.2)


def _aim(thing: Any, turn: float, rise: float, distance: float) -> None:
    """Put it on a sphere about the middle of the scene, and point it there; angles in degrees."""
    turn, rise = math.radians(turn), math.radians(rise)
    away = Vector((math.sin(turn) * math.cos(rise), -math.cos(turn) * math.cos(rise), math.sin(rise)))
    thing.location = distance * away + Vector((0.0, 0.0, 0.2))
    thing.rotation_euler = away.to_track_quat("Z", "Y").to_euler()


def _material(name: str, mesh: Any) -> Any:
    material = bpy.data.materials.new(name)
    material.use_nodes = True
    mesh.materials.append(material)
    return material.node_tree


def _read(path: str, size: int) -> array.array:
    """The red, green and blue of a picture's file, top row first."""
    picture = bpy.data.images.load(path)
    try:
        picture.colorspace_settings.is_data = True  # numbers as they are
        kept = array.array("f", bytes(4 * 4 * size * size))
        picture.pixels.foreach_get(kept)
    finally:
        bpy.data.images.remove(picture)
        Path(path).unlink()
    colours = array.array("f", bytes(4 * 3 * size * size))
    for channel in range(3):
        colours[channel::3] = kept[channel::4]
    row = 3 * size
    return array.array(
        "f", itertools.chain.from_iterable(colours[y * row : (y + 1) * row] for y in reversed(range(size)))
    )


def serve() -> None:
    """Answer until stdin ends."""
    answers = os.fdopen(ANSWERS, "wb")
    scene = Scene(threads=int(os.environ.get("OMP_NUM_THREADS", "1")))
    for line in sys.stdin:
        asked = json.loads(line)
        answer, picture = {"id": asked["id"]}, array.array("f")
        try:
            picture = scene.render(asked["parameters"], asked["seed"], asked["scratch"])
            side = math.isqrt(len(picture) // 3)
            answer["arrays"] = [{"dtype": "<f4", "shape": [side, side, 3]}]
        except Exception as error:
            answer["error"] = f"{type(error).__name__}: {error}"
        answers.write(json.dumps(answer).encode() + b"\n" + picture.tobytes())
        answers.flush()


def main() -> None:
    """Serve within Blender, or become Blender first."""
    if "ZOGRAD_WITHIN_BLENDER" not in os.environ:
        os.dup2(1, ANSWERS)
        os.dup2(2, 1)
    if bpy is not None:
        serve()
        return
    if shutil.which("blender") is None:
        raise SystemExit(MISSING)
    os.environ["ZOGRAD_WITHIN_BLENDER"] = "1"
    words = ["blender", "--background", "--factory-startup", "-noaudio", "--python-exit-code", "1"]
    os.execvp(words[0], [*words, "--python", os.path.abspath(__file__)])


if __name__ == "__main__":
    main()
