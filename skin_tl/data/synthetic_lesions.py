"""Synthetic lesions: how skin and seven kinds of lesions are drawn, without a camera.

Takes a random generator and a view; gives colours of tissue, (height, width, 3) float32, 0…1.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

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


def ramp(values, low, high):
    """Rise smoothly from 0 at `low` to 1 at `high`."""
    t = np.clip((values - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


class View:
    """Where each pixel of one picture lies on the skin, and what can be drawn there.

    Skin coordinates have their origin in the lesion's middle and the picture's height as their unit.  Everything
    that belongs to the lesion is placed in them by the lesion's own generator.

    Attributes
    ----------
    u, v : numpy.ndarray, (HEIGHT, WIDTH) float32
        Skin coordinates of the pixels.
    """

    def __init__(self, rng):
        self.scale = HEIGHT * math.exp(rng.normal(0, 0.12))
        angle = rng.normal(0, 0.2)
        self._cos, self._sin = math.cos(angle), math.sin(angle)
        self._centre = np.array([WIDTH, HEIGHT]) / 2 + rng.normal(0, 0.035, 2) * HEIGHT
        column, row = self._centre.tolist()
        x = (np.arange(WIDTH, dtype=np.float32)[None, :] - column) / self.scale
        y = (np.arange(HEIGHT, dtype=np.float32)[:, None] - row) / self.scale
        self.u = x * self._cos + y * self._sin
        self.v = y * self._cos - x * self._sin

    def pixels(self, points):
        """Turn skin coordinates (n, 2) into pixel coordinates (n, 2)."""
        u, v = np.asarray(points, float).T
        x = u * self._cos - v * self._sin
        y = u * self._sin + v * self._cos
        return np.stack([x, y], axis=1) * self.scale + self._centre

    def noise(self, rng, frequency, stretch=1.0, angle=0.0):
        """Smooth random field of about unit spread, (HEIGHT, WIDTH) float32.

        Parameters
        ----------
        rng : numpy.random.Generator
        frequency : float
            Grid points per unit of skin.
        stretch : float
            How many times longer its features are along `angle` (radians) than across.
        """
        step = self._step(frequency)
        return self._enlarged(self._sampled(rng, frequency, step, stretch, angle))

    def clouds(self, rng, frequency, octaves=3):
        """Sum of noises, each of twice the frequency and half the strength, of about unit spread."""
        fields = {}
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

    def honeycomb(self, rng, period, disorder):
        """Holes in a net: 1 in the middle of a hole, 0 on the net's knots, (HEIGHT, WIDTH) float32.

        Parameters
        ----------
        period : float
            Distance between holes in units of skin.
        disorder : float
            How far the net is warped, in periods; 0.3 looks regular, above 1 torn.
        """
        coarse, fine = 0.25 / period, 0.9 / period
        u = self.u + period * (disorder * self.noise(rng, coarse) + 0.13 * self.noise(rng, fine))
        v = self.v + period * (disorder * self.noise(rng, coarse) + 0.13 * self.noise(rng, fine))
        turn = rng.uniform(0, math.pi)
        waves = 0
        for angle in (turn, turn + math.pi / 3 * 2, turn + math.pi / 3 * 4):
            k = 4 * math.pi / (math.sqrt(3) * period)
            waves += np.cos(u * (k * math.cos(angle)) + v * (k * math.sin(angle)))
        return (waves + 1.5) / 4.5

    def ink(self, lines):
        """Draw lines, each (points (n, 2), width, strength 0..1), on a Pillow image of (2 WIDTH, 2 HEIGHT)."""
        canvas, pen = self._canvas()
        for points, width, strength in lines:
            path = (self.pixels(points) * 2).ravel().tolist()
            thick = max(1, round(width * self.scale * 2))
            pen.line(path, fill=int(255 * strength), width=thick, joint="curve")
        return canvas

    def strokes(self, lines, soft=0.0):
        """Draw lines as a map in 0..1, (HEIGHT, WIDTH) float32, blurred by `soft` units of skin."""
        return self._developed(self.ink(lines), soft)

    def blots(self, rng, centres, radii, strengths=1.0, wobble=0.15, soft=0.0):
        """Draw roundish spots as a map in 0..1, (HEIGHT, WIDTH) float32.

        Parameters
        ----------
        centres : array-like, (n, 2)
            In skin coordinates.
        radii, strengths : float or array-like, (n,)
            Radii in units of skin, strengths in 0..1.
        wobble : float
            How far the spots are from circles.
        soft : float
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


class _Outline:
    """A lesion's outline: a circle, stretched and dented.

    Parameters
    ----------
    rng : numpy.random.Generator
    radius : float
        Mean radius in units of skin.
    dents : float
        Strength of the dents; 0.1 is regular, 0.3 is not.
    elongation : float
        Long axis over short axis.
    """

    def __init__(self, rng, radius, dents, elongation=1.2):
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

    def depth(self, view):
        """How far inside each pixel lies: 1 in the middle, 0 on the outline, negative outside."""
        return self._depth(view.u, view.v)

    def at(self, angles, distances):
        """Skin coordinates (n, 2) of points given by angle and by distance in parts of the outline's radius."""
        angles = np.asarray(angles, float)
        reach = self._edge(angles) * distances
        a = np.cos(angles) * reach * self._stretch
        b = np.sin(angles) * reach / self._stretch
        return np.stack([a * self._cos - b * self._sin, a * self._sin + b * self._cos], axis=1)

    def scatter(self, rng, n, inner=0.0, outer=0.9):
        """Draw `n` points between two parts of the outline's radius, evenly over the area, (n, 2)."""
        distances = np.sqrt(rng.uniform(inner**2, outer**2, n))
        return self.at(rng.uniform(0, 2 * np.pi, n), distances)

    def lattice(self, rng, spacing, jitter=0.25, outer=0.95):
        """Draw points about `spacing` units apart all over the lesion, (n, 2)."""
        reach = 2.2 * self.radius
        n = int(2 * reach / spacing) + 1
        j, i = np.mgrid[:n, :n]
        points = np.stack([(i + 0.5 * (j % 2)) * spacing, j * spacing * 0.87], axis=-1).reshape(-1, 2)
        points = points - points.mean(axis=0) + rng.normal(0, jitter * spacing, points.shape)
        return points[self._depth(*points.T) > 1 - outer]


@dataclass
class _Look:
    """What varies from lesion to lesion before its type comes in.

    Attributes
    ----------
    pigment, redness : float
        How much melanin and blood the lesion's ground holds.
    radius : float
        In units of skin.
    clarity : float
        How plainly the lesion shows the features of its type, 0..1.
    """

    pigment: float
    redness: float
    radius: float
    clarity: float


def draw_look(rng):
    return _Look(
        pigment=min(max(rng.lognormal(-0.25, 0.5), 0.2), 1.9),
        redness=min(max(rng.lognormal(-1.2, 0.6), 0.05), 1.0),
        radius=min(max(rng.lognormal(-1.35, 0.27), 0.14), 0.42),
        clarity=rng.uniform(0.1, 1.0),
    )


@dataclass
class _Tissue:
    """What lies in and on the skin, each a map (HEIGHT, WIDTH) float32; veil, keratin and scar are shares in 0..1."""

    melanin: np.ndarray
    blood: np.ndarray
    veil: np.ndarray
    keratin: np.ndarray
    scar: np.ndarray

    def colour(self, tint):
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


def bare_skin(rng, view, grain):
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
    return _Tissue(melanin, blood, veil=np.zeros_like(blood), keratin=np.zeros_like(blood), scar=scar)


def _stain(rng, view, outline, fade, rough, frequency=9, octaves=2):
    """The lesion's ground: 1 inside, 0 outside, over a border that is `fade` wide (in radii) and `rough`."""
    depth = outline.depth(view)
    edge = depth + rough * view.clouds(rng, frequency, octaves)
    return depth, ramp(edge, 0, fade)


def _network(view, rng, period, disorder, thick):
    """The brown lines of a pigment network in 0..1, `thick` from 0 (hair-thin) to 1 (holes closed)."""
    holes = view.honeycomb(rng, period, disorder)
    middle = 0.12 + 0.38 * thick
    return 1 - ramp(holes, middle - 0.12, middle + 0.22)


def wander(rng, start, heading, length, bend, step=0.012):
    """A line that wanders: points (n, 2) from `start` along `heading` (radians), `length` units long."""
    n = max(3, int(length / step))
    headings = heading + np.cumsum(rng.normal(0, bend, n))
    steps = np.stack([np.cos(headings), np.sin(headings)], axis=1) * (length / n)
    return np.concatenate([[start], start + np.cumsum(steps, axis=0)])


def _vessel_tree(rng, start, heading, length, width, generations=3):
    """Lines (points, width, strength) of a vessel that branches and thins."""
    trunk = wander(rng, start, heading, length, 0.22)
    lines = [(trunk, width, 0.7 + 0.1 * generations)]
    if generations:
        for _ in range(rng.integers(2, 4)):
            at = int(rng.uniform(0.25, 0.95) * (len(trunk) - 1))
            side = heading + rng.choice([-1, 1]) * rng.uniform(0.4, 1.1)
            lines += _vessel_tree(rng, trunk[at], side, length * rng.uniform(0.4, 0.7), width * 0.68, generations - 1)
    return lines


def _shiny_lines(rng, outline, n, outer):
    """Short white lines (points, width, strength) at right angles to each other, as polarised light shows them."""
    turn = rng.uniform(0, math.pi)
    return [
        (wander(rng, start, turn + rng.choice([0, math.pi / 2]) + rng.normal(0, 0.1), 0.05, 0.03), 0.005, 0.8)
        for start in outline.scatter(rng, n, 0, outer)
    ]


# The seven types.  Each draws its features into the tissue.


def _nevus(rng, view, skin, look):
    """Melanocytic nevus: regular network or globules, symmetric, one or two browns."""
    atypical = rng.random() < 0.25  # dysplastic nevi look a little like melanomas
    outline = _Outline(rng, look.radius, 0.13 if atypical else 0.06, rng.uniform(1.0, 1.6))
    depth, ground = _stain(rng, view, outline, rng.uniform(0.2, 0.6), 0.09 if atypical else 0.045)
    kind = rng.choice(["network", "globules", "plain"], p=[0.6, 0.2, 0.2])
    pigment = max(look.pigment, 0.35) * ground
    centre = rng.uniform(-0.25, 0.5)  # the second brown: a darker or paler middle
    pigment *= 1 + centre * ramp(depth + 0.1 * view.clouds(rng, 6, 2), 0.2, 0.8)
    if atypical:
        pigment *= 1 + 0.3 * view.clouds(rng, 5, 3)
    if kind == "network":
        net = _network(view, rng, rng.uniform(0.028, 0.046), 0.3, rng.uniform(0.2, 0.6))
        share = (0.25 + 0.5 * look.clarity) * ramp(view.clouds(rng, 5, 2), -1.6, 0.4)
        pigment *= 1 - 0.75 * share + 1.4 * share * net
    elif kind == "globules":
        points = outline.lattice(rng, rng.uniform(0.03, 0.05))
        dots = view.blots(rng, points, rng.uniform(0.009, 0.014), wobble=0.1, soft=0.003)
        pigment *= 0.65 + (0.4 + 0.6 * look.clarity) * dots
    elif rng.random() < 0.3:  # a papillomatous nevus has cysts as a keratosis has
        cysts = outline.scatter(rng, rng.integers(2, 9), 0, 0.8)
        skin.keratin += 0.5 * look.clarity * view.blots(rng, cysts, 0.009, soft=0.004)
    skin.melanin += pigment * (1 + 0.15 * view.clouds(rng, 12, 3))
    skin.blood += 0.7 * look.redness * ground


def _melanoma(rng, view, skin, look):
    """Melanoma: asymmetry in shape and colour, irregular border, atypical network, streaks, veil, regression."""
    outline = _Outline(rng, max(look.radius * 1.2, 0.2), 0.07 + 0.14 * look.clarity, rng.uniform(1.0, 1.6))
    side = rng.uniform(0, 2 * math.pi)
    tilt = (view.u * math.cos(side) + view.v * math.sin(side)) / look.radius
    _, ground = _stain(rng, view, outline, 0.07 + 0.3 * ramp(-tilt, -1, 1), 0.11, octaves=3)
    patches = view.clouds(rng, 5, 4) + 0.6 * look.clarity * tilt
    dark = ramp(patches, -0.6, 1.3)
    net = _network(view, rng, rng.uniform(0.035, 0.06), 0.7, rng.uniform(0.3, 0.7))
    net_share = rng.uniform(0.2, 0.7) * ramp(view.clouds(rng, 4, 2), -0.6, 0.8)
    pigment = look.pigment * ground * (0.45 + (0.3 + 1.2 * look.clarity) * dark)
    pigment *= 1 - net_share + 1.5 * net_share * net
    streaks = []
    for angle in side + rng.normal(0, 0.6, rng.integers(6, 26)) if rng.random() < 0.8 * look.clarity else []:
        start = outline.at([angle], rng.uniform(0.8, 0.95))[0]
        outward = math.atan2(start[1], start[0])
        line = wander(rng, start, outward, look.radius * rng.uniform(0.12, 0.3), 0.1)
        streaks += [(line, rng.uniform(0.005, 0.011), 0.9), (line[-2:], 0.013, 0.9)]
    pigment += look.pigment * 0.8 * view.strokes(streaks, soft=0.004)
    n = int(rng.integers(8, 44) * look.clarity)
    clumps = outline.at(side + rng.normal(0, 0.9, n), rng.uniform(0.2, 1.0, n))
    pigment += 0.8 * view.blots(rng, clumps, rng.uniform(0.004, 0.014, n), wobble=0.25, soft=0.003)
    skin.melanin += pigment * (1 + 0.15 * view.clouds(rng, 20, 2))
    skin.blood += look.redness * ground * (0.4 + ramp(view.clouds(rng, 5, 2), 0, 1.2))
    if rng.random() < 0.9 * look.clarity:
        middle = outline.at([side + rng.uniform(-1, 1)], rng.uniform(0.1, 0.5))
        veil = view.blots(rng, middle, look.radius * rng.uniform(0.35, 0.6), wobble=0.3, soft=0.035)
        veil *= ground * ramp(view.clouds(rng, 9, 3), -1.6, 0.8)
        skin.veil += rng.uniform(0.3, 0.75) * veil
    if rng.random() < 0.7 * look.clarity:
        away = outline.at([side + np.pi + rng.normal(0, 0.5)], rng.uniform(0.2, 0.6))
        loss = view.blots(rng, away, look.radius * rng.uniform(0.3, 0.5), wobble=0.4, soft=0.03)
        loss *= ramp(view.clouds(rng, 12, 3), -1.2, 0.8) * ground
        skin.melanin *= 1 - 0.75 * loss
        skin.scar += 0.35 * loss
        pepper = away + rng.normal(0, 0.35 * look.radius, (rng.integers(20, 70), 2))
        skin.veil += 0.7 * view.blots(rng, pepper, 0.0045, soft=0.001) * loss


def _basal_cell(rng, view, skin, look):
    """Basal cell carcinoma: arborising vessels, blue-grey ovoid nests, shiny ground, an erosion."""
    outline = _Outline(rng, look.radius, 0.14, rng.uniform(1.0, 1.5))
    depth, ground = _stain(rng, view, outline, 0.5, 0.12)
    pigmented = rng.random() < 0.45
    skin.melanin += look.pigment * ground * (0.5 if pigmented else 0.12) * (0.7 + 0.5 * view.clouds(rng, 6))
    skin.blood += (0.15 + look.redness) * ground * 0.7
    skin.scar += 0.3 * ramp(depth, 0.1, 0.7) * ramp(view.clouds(rng, 7, 2), -0.3, 1.2)
    lines = []
    for _ in range(rng.integers(2, 6)):
        start = outline.at([rng.uniform(0, 2 * math.pi)], rng.uniform(0.8, 1.15))[0]
        inward = math.atan2(-start[1], -start[0]) + rng.normal(0, 0.5)
        lines += _vessel_tree(rng, start, inward, look.radius * rng.uniform(0.7, 1.2), rng.uniform(0.006, 0.012))
    skin.blood += (0.5 + 0.9 * look.clarity) * view.strokes(lines, soft=0.0025)
    n = rng.integers(3, 14) if pigmented or (rng.random() < 0.5) else 0
    nests = outline.scatter(rng, n, 0.2, 0.95)
    blobs = view.blots(rng, nests, rng.uniform(0.012, 0.042, n), rng.uniform(0.5, 1, n), wobble=0.2, soft=0.007)
    blobs *= 0.85 + 0.25 * view.clouds(rng, 20, 2)
    skin.veil += (0.4 + 0.4 * look.clarity) * blobs
    skin.melanin += 0.9 * blobs
    if rng.random() < 0.35:
        crust = view.blots(rng, outline.scatter(rng, 3, 0, 0.4), rng.uniform(0.015, 0.04, 3), wobble=0.3, soft=0.004)
        skin.blood += 1.4 * crust
        skin.melanin += 0.5 * crust
    if rng.random() < 0.4:
        shine = _shiny_lines(rng, outline, rng.integers(5, 15), 0.8)
        skin.scar += 0.7 * view.strokes(shine)


def _keratosis(rng, view, skin, look):
    """Benign keratosis: stuck-on sharp border, milia-like cysts, comedo-like openings, ridges or fingerprint."""
    outline = _Outline(rng, look.radius * 1.05, 0.09, rng.uniform(1.0, 1.6))
    depth, ground = _stain(rng, view, outline, rng.uniform(0.05, 0.16), 0.05, 14, octaves=3)
    turn = rng.uniform(0, math.pi)
    kind = rng.choice(["ridges", "fingerprint", "smooth"], p=[0.45, 0.25, 0.3])
    texture = 0.0
    if kind == "ridges":
        folds = view.noise(rng, 11) + 0.5 * view.noise(rng, 22)
        texture = np.exp(-((folds / 0.35) ** 2)) - 0.35
    elif kind == "fingerprint":
        bent = view.u * math.cos(turn) + view.v * math.sin(turn) + 0.04 * view.noise(rng, 6)
        lines = np.cos(bent * (2 * math.pi / rng.uniform(0.026, 0.04)))
        texture = 0.6 * lines * ramp(view.clouds(rng, 6, 2), -1, 0.8)
    ground = ground * (1 + (0.1 + 0.5 * look.clarity) * texture)
    skin.melanin += look.pigment * ground * (0.9 + 0.25 * view.clouds(rng, 8, 4))
    skin.blood += 0.8 * look.redness * ground
    skin.keratin += 0.15 * ramp(depth, 0.0, 0.1) * ramp(view.clouds(rng, 14, 3), 0.2, 1.4)
    n = int(rng.integers(5, 28) * look.clarity)
    cysts = view.blots(rng, outline.scatter(rng, n, 0, 0.88), rng.uniform(0.005, 0.014, n), wobble=0.1, soft=0.004)
    skin.keratin += (0.3 + 0.5 * look.clarity) * cysts
    n = int(rng.integers(0, 20) * look.clarity)
    plugs = view.blots(rng, outline.scatter(rng, n, 0, 0.9), rng.uniform(0.006, 0.017, n), wobble=0.2, soft=0.002)
    skin.melanin += 1.2 * plugs
    if rng.random() < 0.15:  # inflamed, with the grey of a regressing lesion
        skin.veil += 0.45 * ground * ramp(view.clouds(rng, 6, 3), 0.2, 2.2)


def _dermatofibroma(rng, view, skin, look):
    """Dermatofibroma: a white scar-like patch in the middle of a faint, fading network."""
    outline = _Outline(rng, max(look.radius * 1.35, 0.26), 0.05, rng.uniform(1.0, 1.3))
    depth, ground = _stain(rng, view, outline, rng.uniform(0.7, 1.0), 0.08)
    net = _network(view, rng, rng.uniform(0.026, 0.04), 0.35, 0.35)
    net *= ramp(view.clouds(rng, 5, 2), -1.4, 0.4)
    skin.melanin += 0.75 * max(look.pigment, 0.5) * ground * (0.6 + (0.3 + 0.5 * look.clarity) * net)
    skin.blood += (0.15 + look.redness) * ground * (1 + 0.2 * view.clouds(rng, 8, 2))
    patch = ramp(depth + 0.07 * view.clouds(rng, 7, 3), rng.uniform(0.25, 0.4), rng.uniform(0.65, 0.85))
    if rng.random() < 0.3:  # a white network rather than a plain scar
        white = _network(view, rng, rng.uniform(0.034, 0.05), 0.4, 0.5)
        patch = patch * (0.6 + 0.4 * white)
    else:
        patch = patch * (0.92 + 0.08 * view.clouds(rng, 18, 2))
    shine = _shiny_lines(rng, outline, rng.integers(12, 30), 0.45)
    skin.scar += (0.7 + 0.25 * look.clarity) * patch + 0.6 * view.strokes(shine)
    skin.melanin *= 1 - 0.7 * np.clip(patch, 0, 1)


def _vascular(rng, view, skin, look):
    """Angioma or angiokeratoma: sharply bordered red, purple or blue-black lacunae parted by pale septa."""
    outline = _Outline(rng, look.radius * 0.95, 0.1, rng.uniform(1.0, 1.4))
    _, ground = _stain(rng, view, outline, 0.12, 0.05)
    spacing = rng.uniform(0.055, 0.1)
    centres = outline.lattice(rng, spacing, 0.2, outer=0.92)
    n = len(centres)
    sizes = spacing * rng.uniform(0.36, 0.56, n)
    lacunae = view.blots(rng, centres, sizes, rng.uniform(0.6, 1, n), wobble=0.15, soft=0.004)
    lacunae *= 0.9 + 0.15 * view.clouds(rng, 12, 2)
    purple = rng.uniform(0, 1) ** 2
    skin.blood += ground * (0.3 + 0.5 * look.redness) + lacunae * rng.uniform(0.9, 1.9)
    skin.melanin += lacunae * purple * rng.uniform(0.1, 1.0) + 0.1 * look.pigment * ground
    skin.veil += 0.35 * purple * lacunae
    skin.scar += (0.2 + 0.3 * look.clarity) * ground * (1 - np.clip(lacunae, 0, 1))


def _keratosis_actinic(rng, view, skin, look):
    """Actinic keratosis or Bowen's disease: red pseudonetwork around pale follicles, scale, glomerular vessels."""
    outline = _Outline(rng, max(look.radius * 1.45, 0.28), 0.1, rng.uniform(1.0, 1.5))
    depth, ground = _stain(rng, view, outline, rng.uniform(0.5, 1.0), 0.14, octaves=3)
    strength = 0.55 + 0.45 * look.clarity
    skin.melanin += look.pigment * ground * rng.uniform(0.05, 0.5) * (0.8 + 0.4 * view.clouds(rng, 7))
    follicles = outline.lattice(rng, rng.uniform(0.042, 0.065), 0.22, outer=1.05)
    sizes = rng.uniform(0.009, 0.016, len(follicles))
    halo = view.blots(rng, follicles, sizes, wobble=0.12, soft=0.006) * ground
    plug = view.blots(rng, follicles, sizes * 0.4, wobble=0.12, soft=0.002) * ground
    red = (0.15 + look.redness) * ground * (0.8 + 0.35 * view.clouds(rng, 8))
    skin.blood += red + 0.4 * strength * ground * (1 - halo)
    skin.blood *= 1 - 0.6 * halo * strength
    skin.keratin += strength * (0.25 * halo + 0.35 * plug)
    if rng.random() < 0.75:
        flakes = ramp(view.clouds(rng, 10, 3), rng.uniform(0.3, 0.8), 1.7) * ramp(depth, 0, 0.4)
        flakes *= ramp(view.noise(rng, 38, stretch=1.6, angle=rng.uniform(0, math.pi)), -0.7, 0.9)
        skin.scar += rng.uniform(0.3, 0.8) * flakes
        skin.keratin += rng.uniform(0.1, 0.5) * flakes
    if rng.random() < 0.4:
        dots = outline.scatter(rng, rng.integers(20, 60), 0, 0.9)
        skin.blood += 0.6 * view.blots(rng, dots, 0.006, wobble=0.3, soft=0.002)


@dataclass(frozen=True)
class _Type:
    """One type of lesion: how it is drawn, and what HAM10000's table says of it (shares of lesions, rounded)."""

    draw: Callable
    share: float
    age: tuple  # mean and standard deviation, years
    male: float
    views: tuple  # shares of lesions with 1, 2, 3 and 4 pictures
    dx_type: dict
    sites: dict


TYPES = {
    "akiec": _Type(
        _keratosis_actinic, 0.031, (66.5, 11.5), 0.65, (0.66, 0.25, 0.08, 0.01),
        {"histo": 1.0},
        {"face": 37, "upper extremity": 18, "lower extremity": 18, "back": 10, "chest": 4, "hand": 4, "neck": 4,
         "scalp": 3, "abdomen": 1, "ear": 1},
    ),
    "bcc": _Type(
        _basal_cell, 0.044, (67.0, 13.5), 0.63, (0.54, 0.36, 0.09, 0.01),
        {"histo": 1.0},
        {"back": 38, "face": 19, "lower extremity": 11, "chest": 10, "upper extremity": 10, "neck": 3, "scalp": 3,
         "abdomen": 3, "trunk": 2, "unknown": 1},
    ),
    "bkl": _Type(
        _keratosis, 0.097, (64.5, 14.0), 0.58, (0.60, 0.31, 0.08, 0.01),
        {"histo": 0.67, "consensus": 0.28, "confocal": 0.05},
        {"face": 27, "back": 18, "lower extremity": 15, "upper extremity": 9, "trunk": 8, "chest": 7, "abdomen": 5,
         "neck": 3, "scalp": 3, "unknown": 3, "hand": 2},
    ),
    "df": _Type(
        _dermatofibroma, 0.010, (52.5, 13.0), 0.48, (0.53, 0.36, 0.11, 0.0),
        {"consensus": 0.6, "histo": 0.4},
        {"lower extremity": 75, "upper extremity": 19, "abdomen": 3, "back": 1, "foot": 1, "genital": 1},
    ),
    "mel": _Type(
        _melanoma, 0.082, (61.5, 15.0), 0.60, (0.38, 0.45, 0.16, 0.01),
        {"histo": 1.0},
        {"back": 30, "upper extremity": 18, "lower extremity": 17, "face": 11, "chest": 6, "abdomen": 5, "trunk": 4,
         "neck": 3, "ear": 2, "foot": 2, "scalp": 1, "unknown": 1},
    ),
    "nv": _Type(
        _nevus, 0.723, (47.0, 14.0), 0.51, (0.82, 0.13, 0.05, 0.0),
        {"follow_up": 0.69, "histo": 0.25, "consensus": 0.06},
        {"lower extremity": 22, "trunk": 21, "back": 20, "abdomen": 13, "upper extremity": 9, "foot": 4, "unknown": 3,
         "chest": 2, "face": 1, "genital": 1, "hand": 1, "neck": 1, "acral": 1},
    ),
    "vasc": _Type(
        _vascular, 0.013, (52.5, 20.0), 0.51, (0.65, 0.26, 0.08, 0.01),
        {"consensus": 0.66, "histo": 0.34},
        {"trunk": 28, "abdomen": 22, "lower extremity": 16, "back": 12, "upper extremity": 6, "face": 5, "chest": 3,
         "hand": 3, "neck": 2, "scalp": 2},
    ),
}  # fmt: skip
