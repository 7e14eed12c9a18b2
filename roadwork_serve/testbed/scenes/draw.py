"""Draws a scene at any size and any moment."""

import numpy as np
from PIL import Image, ImageDraw

from roadwork_serve.testbed.scenes.backdrop import draw_backdrop
from roadwork_serve.testbed.scenes.camera import Camera
from roadwork_serve.testbed.scenes.effects import lens, weather
from roadwork_serve.testbed.scenes.pen import Pen, sprite
from roadwork_serve.testbed.scenes.plan import Scene, SceneObject
from roadwork_serve.testbed.scenes.signs import paint_board
from roadwork_serve.testbed.scenes.things import PAINTERS


def draw(scene: Scene, scale: float = 1.0, at_s: float = 0.0) -> Image.Image:
    """Return the scene as RGB, `scale` times its full size, at_s seconds into its clip."""
    camera = scene.camera.at(scale)
    travelled = scene.ego_speed * at_s
    image = draw_backdrop(scene, camera, travelled)
    for item in sorted(scene.objects, key=lambda a: -(a.z + a.vz * at_s)):
        _place(image, item, camera, travelled, at_s)
    rng = np.random.default_rng([scene.seed, 2, round(at_s * 1000)])
    image = weather(image, scene.conditions, camera, rng)
    if scene.conditions.bonnet:
        _bonnet(image, scene)
    return lens(image, scene.conditions, rng)


def _place(image: Image.Image, item: SceneObject, camera: Camera, travelled_m: float, at_s: float) -> None:
    box = item.box(camera, travelled_m, at_s)
    if box is None:
        return
    x0, y0, x1, y1 = box
    if x1 < 0 or x0 > camera.width or y1 - y0 < 1.5:
        return
    rng = np.random.default_rng(item.style)

    def paint(pen: Pen) -> None:
        if item.board:
            paint_board(item.board, pen)
        else:
            PAINTERS[item.painter][1](pen, item.phase_at(at_s))

    if not item.board:
        _shadow(image, x0, x1, y1)
    figure = sprite((x1 - x0, y1 - y0), paint, rng, over=2 if y1 - y0 > 60 else 3)
    if item.flip and not item.board:
        figure = figure.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image.paste(figure, (round(x0), round(y0)), figure)


def _shadow(image: Image.Image, x0: float, x1: float, y1: float) -> None:
    tall = max(1.0, (x1 - x0) * 0.08)
    left, top = round(x0), round(y1 - tall)
    size = (max(1, round(x1 - x0)), max(1, round(2 * tall)))
    mask = Image.new("L", size, 0)
    ImageDraw.Draw(mask).ellipse((0, 0, size[0] - 1, size[1] - 1), fill=90)
    image.paste((14, 14, 16), (left, top), mask)


def _bonnet(image: Image.Image, scene: Scene) -> None:
    w, h = image.size
    tone = 24 + scene.seed % 60
    ImageDraw.Draw(image).ellipse((-0.2 * w, 0.93 * h, 1.2 * w, 1.3 * h), fill=(tone, tone, tone + 4))
