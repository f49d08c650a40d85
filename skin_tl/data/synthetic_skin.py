"""Synthetic skin: what a picture of the synthetic data set is drawn with, but for the lesions and the camera.

Takes a random generator; gives `View` (where each pixel lies on the skin), `Outline`, and maps of what is in the skin,
each (HEIGHT, WIDTH) float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


WIDTH, HEIGHT = 320, 240
"""Size in which pictures are drawn, in pixels; the finished picture is resized from it."""

REACH = 1.7
"""Noise covers the square from −REACH to REACH around a lesion, in units of the picture's height."""

SKIN = np.array([0.97, 0.90, 0.86], np.float32)
MELANIN = np.array([0.52, 0.92, 1.30], np.float32)
BLOOD = np.array([0.22, 1.10, 0.85], np.float32)
VEIL = np.array([0.42, 0.47, 0.58], np.float32)
KERATIN = np.array([0.96, 0.90, 0.74], np.float32)
SCAR = np.array([0.97, 0.91, 0.90], np.float32)
"""Red-green-blue: bare skin (0..1), what a unit of melanin or blood absorbs, what veil, keratin, scar show (0..1)."""


Line = tuple[np.ndarray, float, float]
"""Points (n, 2) in skin coordinates, width in units of skin, strength in 0..1."""


def ramp(values: np.ndarray, low: float, high: float | np.ndarray) -> np.ndarray:
    """Rise smoothly from 0 at `low` to 1 at `high`."""
    t = np.clip((values - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


class View:
    """Where each pixel of one picture lies on the skin, and what can be drawn there.

    Skin coordinates have their origin in the lesion's middle and the picture's height as their unit.  Everything
    that belongs to the lesion is placed in them by the lesion's own generator.

    Attributes
    ----------
    u, v
        Skin coordinates of the pixels.
    """

    def __init__(self, rng: np.random.Generator):
        self.scale = HEIGHT * math.exp(rng.normal(0, 0.12))
        angle = rng.normal(0, 0.2)
        self._cos, self._sin = math.cos(angle), math.sin(angle)
        self._centre = np.array([WIDTH, HEIGHT]) / 2 + rng.normal(0, 0.035, 2) * HEIGHT
        column, row = self._centre.tolist()
        x = (np.arange(WIDTH, dtype=np.float32)[None, :] - column) / self.scale
        y = (np.arange(HEIGHT, dtype=np.float32)[:, None] - row) / self.scale
        self.u = x * self._cos + y * self._sin
        self.v = y * self._cos - x * self._sin

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """Turn skin coordinates (n, 2) into pixel coordinates (n, 2)."""
        u, v = np.asarray(points, float).T
        x = u * self._cos - v * self._sin
        y = u * self._sin + v * self._cos
        return np.stack([x, y], axis=1) * self.scale + self._centre

    def noise(self, rng: np.random.Generator, frequency: float, stretch: float = 1.0, angle: float = 0.0) -> np.ndarray:
        """Smooth random field of about unit spread, (HEIGHT, WIDTH) float32.

        Parameters
        ----------
        frequency
            Grid points per unit of skin.
        stretch
            How many times longer its features are along `angle` (radians) than across.
        """
        step = self._step(frequency)
        return self._enlarged(self._sampled(rng, frequency, step, stretch, angle))

    def clouds(self, rng: np.random.Generator, frequency: float, octaves: int = 3) -> np.ndarray:
        """Sum of noises, each of twice the frequency and half the strength, of about unit spread."""
        fields: dict[int, Any] = {}
        for k in range(octaves):
            step = self._step(frequency * 2**k)
            fields[step] = fields.get(step, 0) + self._sampled(rng, frequency * 2**k, step) * 0.5**k
        return sum(map(self._enlarged, fields.values())) / math.sqrt(sum(0.25**k for k in range(octaves)))

    def _step(self, frequency):
        """A coarse field is sampled on every second or fourth pixel alone."""
        pixels = self.scale / frequency
        return 4 if pixels >= 16 else 2 if pixels >= 8 else 1

    def _sampled(self, rng, frequency, step, stretch=1.0, angle=0.0):
        along, across = frequency / stretch, frequency
        columns, rows = (int(2 * REACH * f) + 6 for f in (along, across))
        grid = Image.fromarray(rng.standard_normal((rows, columns), dtype=np.float32))
        # pixel → skin → grid, both affine
        cos, sin = math.cos(angle), math.sin(angle)
        to_skin = np.array([[self._cos, self._sin], [-self._sin, self._cos]]) / self.scale
        to_grid = np.array([[cos * along, sin * along], [-sin * across, cos * across]])
        matrix = (to_grid[:, :, None] * to_skin[None, :, :]).sum(axis=1)
        offset = np.array([columns, rows]) / 2 - (matrix * self._centre[None, :]).sum(axis=1)
        matrix = matrix * step
        coefficients = (*matrix[0], offset[0], *matrix[1], offset[1])
        size = (WIDTH // step, HEIGHT // step)
        field = grid.transform(size, Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC)
        return np.asarray(field) * 1.4  # the spread that interpolation took

    @staticmethod
    def _enlarged(field):
        if field.shape == (HEIGHT, WIDTH):
            return field
        return np.asarray(Image.fromarray(field).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))

    def honeycomb(self, rng: np.random.Generator, period: float, disorder: float) -> np.ndarray:
        """Holes in a net: 1 in the middle of a hole, 0 on the net's knots, (HEIGHT, WIDTH) float32.

        Parameters
        ----------
        period
            Distance between holes in units of skin.
        disorder
            How far the net is warped, in periods; 0.3 looks regular, above 1 torn.
        """
        coarse, fine = 0.25 / period, 0.9 / period
        u = self.u + period * (disorder * self.noise(rng, coarse) + 0.13 * self.noise(rng, fine))
        v = self.v + period * (disorder * self.noise(rng, coarse) + 0.13 * self.noise(rng, fine))
        turn = rng.uniform(0, math.pi)
        waves = np.zeros_like(u)
        for angle in (turn, turn + math.pi / 3 * 2, turn + math.pi / 3 * 4):
            k = 4 * math.pi / (math.sqrt(3) * period)
            waves += np.cos(u * (k * math.cos(angle)) + v * (k * math.sin(angle)))
        return (waves + 1.5) / 4.5

    def ink(self, lines: Iterable[Line]) -> Image.Image:
        """Draw lines, each (points (n, 2), width, strength 0..1), on a Pillow image of (2 WIDTH, 2 HEIGHT)."""
        canvas, pen = self._canvas()
        for points, width, strength in lines:
            path = (self.pixels(points) * 2).ravel().tolist()
            thick = max(1, round(width * self.scale * 2))
            pen.line(path, fill=int(255 * strength), width=thick, joint="curve")
        return canvas

    def strokes(self, lines: Iterable[Line], soft: float = 0.0) -> np.ndarray:
        """Draw lines as a map in 0..1, (HEIGHT, WIDTH) float32, blurred by `soft` units of skin."""
        return self._developed(self.ink(lines), soft)

    def blots(
        self,
        rng: np.random.Generator,
        centres: ArrayLike,
        radii: ArrayLike,
        strengths: ArrayLike = 1.0,
        wobble: float = 0.15,
        soft: float = 0.0,
    ) -> np.ndarray:
        """Draw roundish spots as a map in 0..1, (HEIGHT, WIDTH) float32.

        Parameters
        ----------
        centres
            In skin coordinates.
        radii, strengths
            Radii in units of skin, strengths in 0..1.
        wobble
            How far the spots are from circles.
        soft
            Spread of their blur in units of skin.
        """
        canvas, pen = self._canvas()
        centres = np.asarray(centres, float).reshape(-1, 2)
        n = len(centres)
        turn = np.linspace(0, 2 * np.pi, 13)[:-1]
        a, b = rng.normal(0, wobble, (2, n, 1))
        p, q = rng.uniform(0, 2 * np.pi, (2, n, 1))
        edges = np.maximum(1 + a * np.cos(2 * turn + p) + b * np.cos(3 * turn + q), 0.3)
        edges *= np.broadcast_to(radii, n)[:, None]
        rings = np.stack([np.cos(turn) * edges, np.sin(turn) * edges], axis=-1) + centres[:, None, :]
        rings = self.pixels(rings.reshape(-1, 2)).reshape(n, 2 * len(turn)) * 2
        for ring, strength in zip(rings.tolist(), np.broadcast_to(strengths, n).tolist(), strict=True):
            pen.polygon(ring, fill=int(255 * strength))
        return self._developed(canvas, soft)

    @staticmethod
    def _canvas():
        canvas = Image.new("L", (2 * WIDTH, 2 * HEIGHT))
        return canvas, ImageDraw.Draw(canvas)

    def _developed(self, canvas, soft):
        ink = np.asarray(canvas.reduce(2), np.float32) / 255
        return gaussian_filter(ink, soft * self.scale, truncate=3) if soft else ink


class Outline:
    """A lesion's outline: a circle, stretched and dented.

    Parameters
    ----------
    radius
        Mean radius in units of skin.
    dents
        Strength of the dents; 0.1 is regular, 0.3 is not.
    elongation
        Long axis over short axis.
    """

    def __init__(self, rng: np.random.Generator, radius: float, dents: float, elongation: float = 1.2):
        self.radius = radius
        self._stretch = math.sqrt(elongation)
        turn = rng.uniform(0, math.pi)
        self._cos, self._sin = math.cos(turn), math.sin(turn)
        orders = np.arange(2, 8)
        strengths = dents * rng.normal(0, 1, len(orders)) / (orders - 0.8)
        phases = rng.uniform(0, 2 * np.pi, len(orders))
        self._dents = list(zip(orders.tolist(), strengths.tolist(), phases.tolist(), strict=True))

    def _edge(self, angle):
        dents = sum(strength * np.cos(order * angle + phase) for order, strength, phase in self._dents)
        return self.radius * np.maximum(1 + dents, 0.35)

    def _depth(self, u, v):
        a = (u * self._cos + v * self._sin) / self._stretch
        b = (v * self._cos - u * self._sin) * self._stretch
        return 1 - np.hypot(a, b) / self._edge(np.arctan2(b, a))

    def depth(self, view: View) -> np.ndarray:
        """How far inside each pixel lies: 1 in the middle, 0 on the outline, negative outside."""
        return self._depth(view.u, view.v)

    def at(self, angles: ArrayLike, distances: ArrayLike) -> np.ndarray:
        """Skin coordinates (n, 2) of points given by angle and by distance in parts of the outline's radius."""
        angles = np.asarray(angles, float)
        reach = self._edge(angles) * distances
        a = np.cos(angles) * reach * self._stretch
        b = np.sin(angles) * reach / self._stretch
        return np.stack([a * self._cos - b * self._sin, a * self._sin + b * self._cos], axis=1)

    def scatter(self, rng: np.random.Generator, n: int, inner: float = 0.0, outer: float = 0.9) -> np.ndarray:
        """Draw `n` points between two parts of the outline's radius, evenly over the area, (n, 2)."""
        distances = np.sqrt(rng.uniform(inner**2, outer**2, n))
        return self.at(rng.uniform(0, 2 * np.pi, n), distances)

    def lattice(
        self, rng: np.random.Generator, spacing: float, jitter: float = 0.25, outer: float = 0.95
    ) -> np.ndarray:
        """Draw points about `spacing` units apart all over the lesion, (n, 2)."""
        reach = 2.2 * self.radius
        n = int(2 * reach / spacing) + 1
        j, i = np.mgrid[:n, :n]
        points = np.stack([(i + 0.5 * (j % 2)) * spacing, j * spacing * 0.87], axis=-1).reshape(-1, 2)
        points = points - points.mean(axis=0) + rng.normal(0, jitter * spacing, points.shape)
        return points[self._depth(*points.T) > 1 - outer]


@dataclass
class Look:
    """What varies from lesion to lesion before its type comes in.

    Attributes
    ----------
    pigment, redness
        How much melanin and blood the lesion's ground holds.
    radius
        In units of skin.
    clarity
        How plainly the lesion shows the features of its type, 0..1.
    """

    pigment: float
    redness: float
    radius: float
    clarity: float


def draw_look(rng: np.random.Generator) -> Look:
    return Look(
        pigment=min(max(rng.lognormal(-0.25, 0.5), 0.2), 1.9),
        redness=min(max(rng.lognormal(-1.2, 0.6), 0.05), 1.0),
        radius=min(max(rng.lognormal(-1.35, 0.27), 0.14), 0.42),
        clarity=rng.uniform(0.1, 1.0),
    )


@dataclass
class Tissue:
    """What lies in and on the skin, each a map (HEIGHT, WIDTH) float32; veil, keratin and scar are shares in 0..1."""

    melanin: np.ndarray
    blood: np.ndarray
    veil: np.ndarray
    keratin: np.ndarray
    scar: np.ndarray

    def colour(self, tint: np.ndarray) -> np.ndarray:
        """Colour of the lit tissue, (3, HEIGHT, WIDTH) float32 in 0..1.

        `tint` (3,) multiplies what melanin absorbs: browns differ from lesion to lesion.
        """
        layers = [
            (np.clip(share, 0, 1), shown)
            for share, shown in ((self.veil, VEIL), (self.scar, SCAR), (self.keratin, KERATIN))
        ]
        melanin, blood = np.maximum(self.melanin, 0), np.maximum(self.blood, 0)
        planes = []
        for k in range(3):
            plane = SKIN[k] * np.exp(-(melanin * (MELANIN[k] * tint[k]) + blood * BLOOD[k]))
            for share, shown in layers:
                plane += share * (shown[k] - plane)
            planes.append(plane)
        return np.stack(planes)


def bare_skin(rng: np.random.Generator, view: View, grain: np.ndarray) -> Tissue:
    """Skin without a lesion: its tone, mottling, creases, freckles, follicles and small vessels."""
    tone = min(max(rng.gamma(1.6, 0.07), 0.02), 0.7)
    flush = min(max(rng.gamma(2.2, 0.07), 0.03), 0.5)
    mottle = rng.uniform(0.2, 1.0) ** 2
    clouds = mottle * view.clouds(rng, 8, 2)
    melanin = tone * (1 - 0.15 * clouds)
    blood = flush * (1 + 0.25 * clouds)
    creases = rng.uniform(0.01, 0.06)
    turn = rng.uniform(0, math.pi)
    for angle in (turn, turn + rng.uniform(0.8, 1.5)):
        melanin += creases * np.exp(-2 * np.abs(view.noise(rng, 26, stretch=9, angle=angle)))
    melanin += 0.015 * grain
    if rng.random() < 0.3:
        freckles = rng.uniform(-1.1, 1.1, (rng.integers(15, 70), 2))
        sizes = rng.uniform(0.008, 0.03, len(freckles))
        melanin += rng.uniform(0.1, 0.35) * view.blots(rng, freckles, sizes, wobble=0.3, soft=0.008)
    if rng.random() < 0.3:
        starts = rng.uniform(-1, 1, (rng.integers(8, 35), 2))
        vessels = [
            (wander(rng, p, rng.uniform(0, 2 * math.pi), rng.uniform(0.08, 0.45), 0.3), rng.uniform(0.003, 0.007), 0.8)
            for p in starts
        ]
        blood += rng.uniform(0.1, 0.4) * view.strokes(vessels, soft=0.003)
    scar = np.zeros_like(blood)
    if rng.random() < 0.25:
        pores = rng.uniform(-1, 1, (rng.integers(60, 160), 2))
        scar += rng.uniform(0.15, 0.4) * view.blots(rng, pores, 0.008, wobble=0.2, soft=0.004)
    return Tissue(melanin, blood, veil=np.zeros_like(blood), keratin=np.zeros_like(blood), scar=scar)


def stain(
    rng: np.random.Generator,
    view: View,
    outline: Outline,
    fade: float | np.ndarray,
    rough: float,
    frequency: float = 9,
    octaves: int = 2,
) -> tuple[np.ndarray, np.ndarray]:
    """The lesion's ground: 1 inside, 0 outside, over a border that is `fade` wide (in radii) and `rough`."""
    depth = outline.depth(view)
    edge = depth + rough * view.clouds(rng, frequency, octaves)
    return depth, ramp(edge, 0, fade)


def pigment_network(view: View, rng: np.random.Generator, period: float, disorder: float, thick: float) -> np.ndarray:
    """The brown lines of a pigment network in 0..1, `thick` from 0 (hair-thin) to 1 (holes closed)."""
    holes = view.honeycomb(rng, period, disorder)
    middle = 0.12 + 0.38 * thick
    return 1 - ramp(holes, middle - 0.12, middle + 0.22)


def wander(
    rng: np.random.Generator, start: np.ndarray, heading: float, length: float, bend: float, step: float = 0.012
) -> np.ndarray:
    """A line that wanders: points (n, 2) from `start` along `heading` (radians), `length` units long."""
    n = max(3, int(length / step))
    headings = heading + np.cumsum(rng.normal(0, bend, n))
    steps = np.stack([np.cos(headings), np.sin(headings)], axis=1) * (length / n)
    return np.concatenate([[start], start + np.cumsum(steps, axis=0)])
