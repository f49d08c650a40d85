"""Synthetic lesions: how the seven types are drawn, and what HAM10000's table says of each.

Takes a random generator, a view and skin; draws the features of a lesion into the skin.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from skin_tl.data.synthetic_skin import Outline, pigment_network, ramp, stain, wander


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
    outline = Outline(rng, look.radius, 0.13 if atypical else 0.06, rng.uniform(1.0, 1.6))
    depth, ground = stain(rng, view, outline, rng.uniform(0.2, 0.6), 0.09 if atypical else 0.045)
    pattern = rng.choice(["network", "globules", "plain"], p=[0.6, 0.2, 0.2])
    pigment = max(look.pigment, 0.35) * ground
    centre = rng.uniform(-0.25, 0.5)  # the second brown: a darker or paler middle
    pigment *= 1 + centre * ramp(depth + 0.1 * view.clouds(rng, 6, 2), 0.2, 0.8)
    if atypical:
        pigment *= 1 + 0.3 * view.clouds(rng, 5, 3)
    if pattern == "network":
        net = pigment_network(view, rng, rng.uniform(0.028, 0.046), 0.3, rng.uniform(0.2, 0.6))
        share = (0.25 + 0.5 * look.clarity) * ramp(view.clouds(rng, 5, 2), -1.6, 0.4)
        pigment *= 1 - 0.75 * share + 1.4 * share * net
    elif pattern == "globules":
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
    outline = Outline(rng, max(look.radius * 1.2, 0.2), 0.07 + 0.14 * look.clarity, rng.uniform(1.0, 1.6))
    side = rng.uniform(0, 2 * math.pi)
    tilt = (view.u * math.cos(side) + view.v * math.sin(side)) / look.radius
    _, ground = stain(rng, view, outline, 0.07 + 0.3 * ramp(-tilt, -1, 1), 0.11, octaves=3)
    patches = view.clouds(rng, 5, 4) + 0.6 * look.clarity * tilt
    dark = ramp(patches, -0.6, 1.3)
    net = pigment_network(view, rng, rng.uniform(0.035, 0.06), 0.7, rng.uniform(0.3, 0.7))
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
    outline = Outline(rng, look.radius, 0.14, rng.uniform(1.0, 1.5))
    depth, ground = stain(rng, view, outline, 0.5, 0.12)
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
    outline = Outline(rng, look.radius * 1.05, 0.09, rng.uniform(1.0, 1.6))
    depth, ground = stain(rng, view, outline, rng.uniform(0.05, 0.16), 0.05, 14, octaves=3)
    turn = rng.uniform(0, math.pi)
    pattern = rng.choice(["ridges", "fingerprint", "smooth"], p=[0.45, 0.25, 0.3])
    texture = 0.0
    if pattern == "ridges":
        folds = view.noise(rng, 11) + 0.5 * view.noise(rng, 22)
        texture = np.exp(-((folds / 0.35) ** 2)) - 0.35
    elif pattern == "fingerprint":
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
    outline = Outline(rng, max(look.radius * 1.35, 0.26), 0.05, rng.uniform(1.0, 1.3))
    depth, ground = stain(rng, view, outline, rng.uniform(0.7, 1.0), 0.08)
    net = pigment_network(view, rng, rng.uniform(0.026, 0.04), 0.35, 0.35)
    net *= ramp(view.clouds(rng, 5, 2), -1.4, 0.4)
    skin.melanin += 0.75 * max(look.pigment, 0.5) * ground * (0.6 + (0.3 + 0.5 * look.clarity) * net)
    skin.blood += (0.15 + look.redness) * ground * (1 + 0.2 * view.clouds(rng, 8, 2))
    patch = ramp(depth + 0.07 * view.clouds(rng, 7, 3), rng.uniform(0.25, 0.4), rng.uniform(0.65, 0.85))
    if rng.random() < 0.3:  # a white network rather than a plain scar
        white = pigment_network(view, rng, rng.uniform(0.034, 0.05), 0.4, 0.5)
        patch = patch * (0.6 + 0.4 * white)
    else:
        patch = patch * (0.92 + 0.08 * view.clouds(rng, 18, 2))
    shine = _shiny_lines(rng, outline, rng.integers(12, 30), 0.45)
    skin.scar += (0.7 + 0.25 * look.clarity) * patch + 0.6 * view.strokes(shine)
    skin.melanin *= 1 - 0.7 * np.clip(patch, 0, 1)


def _vascular(rng, view, skin, look):
    """Angioma or angiokeratoma: sharply bordered red, purple or blue-black lacunae parted by pale septa."""
    outline = Outline(rng, look.radius * 0.95, 0.1, rng.uniform(1.0, 1.4))
    _, ground = stain(rng, view, outline, 0.12, 0.05)
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
    outline = Outline(rng, max(look.radius * 1.45, 0.28), 0.1, rng.uniform(1.0, 1.5))
    depth, ground = stain(rng, view, outline, rng.uniform(0.5, 1.0), 0.14, octaves=3)
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
class LesionType:
    """One type of lesion: how it is drawn, and what HAM10000's table says of it (shares of lesions, rounded)."""

    draw: Callable
    share: float
    age: tuple  # mean and standard deviation, years
    male: float
    views: tuple  # shares of lesions with 1, 2, 3 and 4 pictures
    dx_type: dict
    sites: dict


TYPES = {
    "akiec": LesionType(
        _keratosis_actinic, 0.031, (66.5, 11.5), 0.65, (0.66, 0.25, 0.08, 0.01),
        {"histo": 1.0},
        {"face": 37, "upper extremity": 18, "lower extremity": 18, "back": 10, "chest": 4, "hand": 4, "neck": 4,
         "scalp": 3, "abdomen": 1, "ear": 1},
    ),
    "bcc": LesionType(
        _basal_cell, 0.044, (67.0, 13.5), 0.63, (0.54, 0.36, 0.09, 0.01),
        {"histo": 1.0},
        {"back": 38, "face": 19, "lower extremity": 11, "chest": 10, "upper extremity": 10, "neck": 3, "scalp": 3,
         "abdomen": 3, "trunk": 2, "unknown": 1},
    ),
    "bkl": LesionType(
        _keratosis, 0.097, (64.5, 14.0), 0.58, (0.60, 0.31, 0.08, 0.01),
        {"histo": 0.67, "consensus": 0.28, "confocal": 0.05},
        {"face": 27, "back": 18, "lower extremity": 15, "upper extremity": 9, "trunk": 8, "chest": 7, "abdomen": 5,
         "neck": 3, "scalp": 3, "unknown": 3, "hand": 2},
    ),
    "df": LesionType(
        _dermatofibroma, 0.010, (52.5, 13.0), 0.48, (0.53, 0.36, 0.11, 0.0),
        {"consensus": 0.6, "histo": 0.4},
        {"lower extremity": 75, "upper extremity": 19, "abdomen": 3, "back": 1, "foot": 1, "genital": 1},
    ),
    "mel": LesionType(
        _melanoma, 0.082, (61.5, 15.0), 0.60, (0.38, 0.45, 0.16, 0.01),
        {"histo": 1.0},
        {"back": 30, "upper extremity": 18, "lower extremity": 17, "face": 11, "chest": 6, "abdomen": 5, "trunk": 4,
         "neck": 3, "ear": 2, "foot": 2, "scalp": 1, "unknown": 1},
    ),
    "nv": LesionType(
        _nevus, 0.723, (47.0, 14.0), 0.51, (0.82, 0.13, 0.05, 0.0),
        {"follow_up": 0.69, "histo": 0.25, "consensus": 0.06},
        {"lower extremity": 22, "trunk": 21, "back": 20, "abdomen": 13, "upper extremity": 9, "foot": 4, "unknown": 3,
         "chest": 2, "face": 1, "genital": 1, "hand": 1, "neck": 1, "acral": 1},
    ),
    "vasc": LesionType(
        _vascular, 0.013, (52.5, 20.0), 0.51, (0.65, 0.26, 0.08, 0.01),
        {"consensus": 0.66, "histo": 0.34},
        {"trunk": 28, "abdomen": 22, "lower extremity": 16, "back": 12, "upper extremity": 6, "face": 5, "chest": 3,
         "hand": 3, "neck": 2, "scalp": 2},
    ),
}  # fmt: skip
