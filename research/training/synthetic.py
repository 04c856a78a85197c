"""Procedural scenes with exact masks: textured things made of parts, before each other and a textured ground.

A species is a thing's shape, parts, colours and textures, drawn from its number; two scenes that show one species show
it turned, scaled, bent and lit differently, as two photos of one class do. Nothing but NumPy and Pillow enters, so the
scenes carry nobody's licence.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Field = NDArray[np.float32]


def scene(
    rng: np.random.Generator, species: int, size: int, of: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """A picture (H, W, 3) with the labels of its things (H, W) and of their parts (H, W); thing 1 is of that species,
    unless it is covered, the others are of the first `of` species, and 0 is the ground. The longer side has `size`
    pixels."""
    height, width = size, size
    if rng.random() < 0.6:
        height = int(size * rng.uniform(0.6, 1))
    canvas = _ground(rng, height, width)
    things, parts = np.zeros((height, width), np.uint8), np.zeros((height, width), np.uint8)
    others = [(2 + index, int(number)) for index, number in enumerate(rng.integers(0, of, rng.integers(1, 6)))]
    # Before all others, or behind one of them.
    order = [*others[1:], (1, species), others[0]] if rng.random() < 0.4 else [*others, (1, species)]
    next_part = 1
    for label, number in order:
        next_part = _draw(rng, number, label, next_part, canvas, things, parts)
    light = 1 + rng.uniform(0, 0.35) * _plane(rng, height, width)
    noisy = canvas * light[..., None] + rng.normal(0, rng.uniform(0, 0.03), canvas.shape)
    image = Image.fromarray((noisy.clip(0, 1) * 255).astype(np.uint8))
    image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.4, 1.2))))  # also smooths the stairs of edges
    return np.asarray(image), things, parts


def _plane(rng: np.random.Generator, height: int, width: int) -> Field:
    """(H, W) in about -1…1, a slope in some direction."""
    ys, xs = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    return np.asarray(xs * np.cos(angle) + ys * np.sin(angle), np.float32)


def _noise(rng: np.random.Generator, height: int, width: int, cells: int) -> Field:
    """(H, W) in 0…1, smooth noise with about `cells` bumps along a side, and finer ones on it."""
    total = np.zeros((height, width), np.float32)
    for octave in range(3):
        n = min(cells * 2**octave, 128)
        coarse = Image.fromarray(rng.random((n, n), np.float32))
        total += np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)) * 0.5**octave
    return np.asarray(np.clip(total / 1.75, 0, 1), np.float32)


def _palette(rng: np.random.Generator) -> NDArray[np.float64]:
    """(2, 3) two colours in 0…1, alike or not, most of them as dull as the world's."""
    first = rng.random(3)
    first = first.mean() + (first - first.mean()) * rng.uniform(0.1, 1)
    return np.stack([first, np.clip(first + rng.normal(0, 0.35, 3), 0, 1)])


def _texture(rng: np.random.Generator) -> Callable[[Field, Field], Field]:
    """A function of coordinates in about -1…1, drawn once, with values in 0…1: how much of the second colour."""
    kind = rng.integers(6)
    frequency, angle = rng.uniform(4, 25), rng.uniform(0, np.pi)
    warp = rng.uniform(0, 1.5)
    tile = _noise(rng, 64, 64, int(rng.integers(3, 16)))

    def lookup(u: Field, v: Field) -> Field:
        return tile[((v + 1) * 31.5).astype(int) % 64, ((u + 1) * 31.5).astype(int) % 64]

    def value(u: Field, v: Field) -> Field:
        along = u * np.cos(angle) + v * np.sin(angle)
        across = v * np.cos(angle) - u * np.sin(angle)
        if kind == 0:
            return np.zeros_like(u)
        if kind == 1:
            return lookup(u, v)
        if kind == 2:
            return 0.5 + 0.5 * np.sin(frequency * along + 4 * warp * lookup(u, v))
        if kind == 3:
            return (np.sin(frequency * along) * np.sin(frequency * across) > 0).astype(np.float32)
        if kind == 4:
            return (np.cos(frequency * along) + np.cos(frequency * across + warp * along) > 0.7).astype(np.float32)
        return np.clip(0.5 + along / 2, 0, 1)

    return value


def _outline(rng: np.random.Generator) -> Callable[[Field, float], Field]:
    """A function of the angle (and of how much the thing is bent): the radius of a star-shaped outline, about 1."""
    if rng.random() < 0.4:  # a polygon with straight sides
        count = int(rng.integers(3, 8))
        corners = (np.arange(count) + rng.uniform(-0.2, 0.2, count)) * 2 * np.pi / count
        reach = rng.uniform(0.7, 1.1, count)

        def polygon(theta: Field, bend: float) -> Field:
            nearest = np.full(theta.shape, np.inf, np.float32)
            for corner, far in zip(corners, reach, strict=True):
                cosine = np.cos(theta - corner)
                side = far * (1 + 0.1 * bend * np.sin(corner)) / np.maximum(cosine, 1e-3)
                nearest = np.minimum(nearest, np.where(cosine > 0.05, side, np.inf))
            return np.minimum(nearest, 1.6)

        return polygon
    waves = rng.integers(1, 7, 3)
    heights, phases = rng.normal(0, 0.16, 3), rng.uniform(0, 2 * np.pi, 3)

    def blob(theta: Field, bend: float) -> Field:
        radius = np.ones_like(theta)
        for wave, height, phase in zip(waves, heights, phases, strict=True):
            radius += height * np.cos(wave * theta + phase + bend * 0.5)
        return np.maximum(radius, 0.25)

    return blob


def _draw(
    rng: np.random.Generator, number: int, label: int, next_part: int,
    canvas: NDArray[np.float32], things: NDArray[np.uint8], parts: NDArray[np.uint8],
) -> int:  # fmt: skip
    """Paints one thing of species `number` somewhere; returns the next free label of a part."""
    kind = np.random.default_rng((77, number))
    height, width = things.shape
    scale = max(height, width) * np.exp(rng.uniform(np.log(0.08), np.log(0.38)))
    turn, stretch, bend = rng.uniform(0, 2 * np.pi), np.exp(rng.normal(0, 0.15)), rng.normal()
    tint = rng.normal(0, 0.06, 3) + rng.normal(0, 0.06)
    middle = rng.uniform(0.08, 0.92, 2) * (height, width)
    reach = int(2.6 * scale) + 2
    top, left = max(0, int(middle[0]) - reach), max(0, int(middle[1]) - reach)
    window = (slice(top, int(middle[0]) + reach), slice(left, int(middle[1]) + reach))
    ys, xs = np.indices(things[window].shape, np.float32)
    ys, xs = (ys + top - middle[0]) / scale, (xs + left - middle[1]) / scale
    u = ((xs * np.cos(turn) + ys * np.sin(turn)) * stretch).astype(np.float32)
    v = ((ys * np.cos(turn) - xs * np.sin(turn)) / stretch).astype(np.float32)
    for index in range(int(kind.integers(1, 5))):
        outline, texture, colours = _outline(kind), _texture(kind), _palette(kind)
        where = kind.normal(0, 0.65, 2) if index else np.zeros(2)
        size = kind.uniform(0.2, 0.7) if index else kind.uniform(0.7, 1)
        aspect = np.exp(kind.normal(0, 0.35))
        pu, pv = (u - where[0]) / size * aspect, (v - where[1]) / size / aspect
        inside = np.hypot(pu, pv) < outline(np.arctan2(pv, pu), bend)
        if not inside.any():
            continue
        amount = texture(pu[inside] / 1.6, pv[inside] / 1.6)[:, None]
        canvas[window][inside] = np.clip(colours[0] * (1 - amount) + colours[1] * amount + tint, 0, 1)
        things[window][inside] = label
        parts[window][inside] = next_part
        next_part += 1
    return next_part


def _ground(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    """(H, W, 3) in 0…1: one to four textured regions, divided by slopes and noise."""
    ys, xs = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    canvas = np.empty((height, width, 3), np.float32)
    for index in range(int(rng.integers(1, 5))):
        colours, texture = _palette(rng), _texture(rng)
        amount = texture(xs, ys)[..., None]
        painted = colours[0] * (1 - amount) + colours[1] * amount
        if rng.random() < 0.5:
            painted = painted + 0.4 * (_noise(rng, height, width, int(rng.integers(2, 24))) - 0.5)[..., None]
        divider = _plane(rng, height, width) + rng.uniform(0.2, 2) * (_noise(rng, height, width, 3) - 0.5)
        region = divider > rng.uniform(-0.6, 0.6) if index else np.ones((height, width), bool)
        canvas[region] = np.clip(painted, 0, 1)[region]
    return canvas
