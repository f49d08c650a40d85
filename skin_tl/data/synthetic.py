"""Synthetic data: a folder in the layout of HAM10000 with drawn lesions, for the demo and the tests.

Takes a seed; gives image files, a metadata table and a note of where they come from, the same for the same seed.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from skin_tl.data.synthetic_lesions import TYPES
from skin_tl.data.synthetic_skin import HEIGHT, WIDTH, View, bare_skin, draw_look, ramp, wander
from skin_tl.files import write_atomically


def _seeded(seed, *path):
    """Return the generator that belongs to one thing of the data set, whatever else is drawn and in whatever order."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=path))


# The dermatoscope and what lies between it and the lesion.


def _hairs(rng, view, size):
    """Hairs of the patch of skin as a mask for the finished picture, and their colour; None for bare skin."""
    hair = rng.choice(["none", "few", "many", "stubble"], p=[0.5, 0.28, 0.1, 0.12])
    count = {"none": 0, "few": rng.integers(1, 7), "many": rng.integers(12, 30), "stubble": rng.integers(15, 60)}[hair]
    if not count:
        return None
    width = rng.uniform(0.004, 0.009)
    heading = rng.uniform(0, 2 * math.pi)
    lines = []
    for _ in range(count):
        length = rng.uniform(0.04, 0.12) if hair == "stubble" else rng.uniform(0.4, 1.4)
        line = wander(rng, rng.uniform(-1, 1, 2), heading + rng.normal(0, 0.4), length, 0.05, step=0.025)
        lines.append((line, width, rng.uniform(0.6, 0.92)))
    dark = np.array([45, 32, 28]) + rng.uniform(0, 1) ** 2 * np.array([110, 85, 60])
    return view.ink(lines).resize(size, Image.Resampling.BOX), tuple(int(c) for c in dark)


@dataclass
class _Camera:
    """The dermatoscope of one visit; the pictures of a lesion were taken with the same one.

    Attributes
    ----------
    cast
        What it makes of white.
    light, gamma
        Exposure and tone curve; 1 changes nothing.
    edge, softness
        Where its tube begins to show and over which distance, in units of the picture's height from the middle.
    """

    cast: np.ndarray
    light: float
    gamma: float
    edge: float
    softness: float


def _camera(rng):
    return _Camera(
        cast=rng.lognormal(0, [0.05, 0.04, 0.09]),
        light=rng.lognormal(-0.06, 0.11),
        gamma=rng.lognormal(0, 0.12),
        edge=rng.uniform(0.62, 0.78) if rng.random() < 0.2 else 2.0,
        softness=rng.uniform(0.015, 0.1),
    )


def _photograph(rng, camera, colour):
    """Light and lens: colour cast, uneven light, vignette, focus, grain.  Gives (HEIGHT, WIDTH, 3) float32 in 0..1."""
    y, x = np.ogrid[:HEIGHT, :WIDTH]
    x = (x.astype(np.float32) - WIDTH / 2) / HEIGHT
    y = (y.astype(np.float32) - HEIGHT / 2) / HEIGHT
    blur = abs(rng.normal(0, 0.55))
    if blur > 0.3:
        colour = np.stack([gaussian_filter(plane, blur, truncate=2.5) for plane in colour])
    cast = (camera.cast * rng.lognormal(0, 0.02, 3)).tolist()
    light = camera.light * rng.lognormal(0, 0.05)
    turn = rng.uniform(0, 2 * math.pi)
    slope = abs(rng.normal(0, 0.08))
    field = light * (1 + slope * (x * math.cos(turn) + y * math.sin(turn)))
    radius = np.hypot(x, y)
    field *= 1 - rng.uniform(0, 0.4) * radius**2
    if camera.edge < 1:
        field *= 1 - ramp(radius, camera.edge, camera.edge + camera.softness) * 0.97
    gamma = camera.gamma * rng.lognormal(0, 0.04)
    grain = rng.standard_normal((HEIGHT, WIDTH), dtype=np.float32) * rng.uniform(0.004, 0.014)
    planes = [np.clip(plane * (field * c), 0, 1.1) ** gamma + grain for plane, c in zip(colour, cast, strict=True)]
    return np.clip(np.stack(planes, axis=-1), 0, 1)


def _accessories(rng, picture):
    """Bubbles in the contact fluid, glints and the marks of a scale, drawn on the finished picture."""
    width, height = picture.size
    unit = height / 450
    pen = ImageDraw.Draw(picture, "RGBA")
    for _ in range(rng.integers(1, 6) if rng.random() < 0.25 else 0):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        r = rng.uniform(4, 16) * unit
        pen.ellipse((x - r, y - r, x + r, y + r), outline=(255, 255, 255, 70), width=max(1, round(1.5 * unit)))
        pen.arc((x - r, y - r, x + r, y + r), 200, 260, fill=(255, 255, 255, 170), width=max(1, round(2 * unit)))
    for _ in range(rng.integers(3, 25) if rng.random() < 0.3 else 0):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        r = rng.uniform(0.6, 1.6) * unit
        pen.ellipse((x - r, y - r, x + r, y + r), fill=(255, 255, 255, 150))
    if rng.random() < 0.18:
        x, y = width * rng.uniform(0.78, 0.9), height * (-0.02 if rng.random() < 0.5 else 0.85)
        turn = rng.choice([-1, 1]) * rng.uniform(0.3, 0.9)
        along, across = np.array([math.cos(turn), math.sin(turn)]), np.array([math.sin(turn), -math.cos(turn)])
        for k in range(6):
            foot = np.array([x, y]) + along * k * 17 * unit
            tip = foot + across * (22 if k % 5 == 0 else 14) * unit
            pen.line([tuple(foot), tuple(tip)], fill=(20, 18, 20, 220), width=max(1, round(2.5 * unit)))


def draw_lesion(dx: str, rng: np.random.Generator, size: tuple[int, int] = (600, 450)) -> np.ndarray:
    """Draw one picture of a new lesion.

    Parameters
    ----------
    dx
        A key of `TYPES`.
    rng
        Two generators are spawned from it: one for the lesion, one for the picture.
    size
        Width and height in pixels.  The picture is drawn 4:3 and squashed to any other shape.
    """
    return np.asarray(_picture(dx, rng.spawn(1)[0], rng.spawn(1)[0], size))


def _picture(dx, lesion_rng, view_rng, size):
    """Draw the picture that `view_rng` takes of the lesion that `lesion_rng` makes, as a Pillow image."""
    view = View(view_rng)
    rng = lesion_rng
    look = draw_look(rng)
    tint = rng.lognormal(0, [0.10, 0.05, 0.12]).astype(np.float32)
    camera = _camera(rng)
    grain = view.noise(rng, 60)
    skin = bare_skin(rng, view, grain)
    hairs = _hairs(rng, view, size)
    TYPES[dx].draw(rng, view, skin, look)
    skin.melanin *= 1 + 0.08 * grain
    lit = _photograph(view_rng, camera, skin.colour(tint))
    picture = Image.fromarray((lit * 255 + 0.5).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    if hairs:
        mask, colour = hairs
        picture.paste(colour, mask=mask)
    _accessories(view_rng, picture)
    return picture


def draw_dataset(
    folder: str | Path,
    n_lesions: int = 240,
    seed: int = 0,
    size: tuple[int, int] = (600, 450),
    workers: int | None = None,
    on_image: Callable[[], object] | None = None,
) -> Path:
    """Draw a whole data set into a folder laid out as HAM10000 is; return the folder.

    Every picture has its own random generators, made of the seed, its lesion and its number: the files are the same
    bytes with any number of workers.

    Parameters
    ----------
    folder
        Written whole or not at all; replaced if it exists.
    n_lesions
        At least 35.  The types get HAM10000's shares, but at least ``min(10, n_lesions // 7)`` lesions each.
        About 1.35 times as many pictures are drawn.
    seed
        Not negative.
    size
        Width and height of the pictures, in pixels.
    workers
        Processes to draw with; by default as many as there are processors to use.  1 draws in this process; more
        are started afresh, so that a script needs its ``if __name__ == "__main__":``.
    on_image
        Called without arguments after each picture.

    Raises
    ------
    ValueError
        If `n_lesions` is under 35.
    SkinTLError
        If the disk is full.
    """
    folder = Path(folder)
    rows = _table(n_lesions, seed)
    with write_atomically(folder) as part:
        halves = [part / f"HAM10000_images_part_{k}" for k in (1, 2)]
        for path in halves:
            path.mkdir(parents=True)
        last_of_first = sorted(row["image_id"] for row in rows)[(len(rows) - 1) // 2]
        jobs = []
        for row in rows:
            path = halves[row["image_id"] > last_of_first] / f"{row['image_id']}.jpg"
            jobs.append((row["dx"], seed, row.pop("lesion"), row.pop("view"), size, path))
        for _ in Parallel(n_jobs=workers or -1, return_as="generator")(delayed(_draw_file)(job) for job in jobs):
            if on_image:
                on_image()
        with open(part / "HAM10000_metadata.csv", "w", newline="", encoding="utf-8") as stream:
            table = csv.DictWriter(stream, rows[0], lineterminator="\n")
            table.writeheader()
            table.writerows(rows)
        (part / "ATTRIBUTION.md").write_text(ATTRIBUTION.format(seed=seed), encoding="utf-8", newline="\n")
    return folder


def count_images(n_lesions: int = 240, seed: int = 0) -> int:
    """Return how many pictures `draw_dataset` draws: what a progress bar needs to know."""
    return len(_table(n_lesions, seed))


ATTRIBUTION = """\
# Synthetic pictures

Nothing in this folder is a photograph, and no patient stands behind any row of the table. Pictures and metadata were
drawn by `skin_tl.synthetic` from seed {seed}, in the layout of HAM10000 (P. Tschandl et al., doi:10.7910/DVN/DBW86T) so
that the same code reads both. They show that the pipeline works; no figure computed from them says anything about
skin cancer. The project's licence (MIT) covers them.
"""


def _table(n_lesions, seed):
    """Make the rows of the metadata table, sorted by lesion: dicts with its columns, `lesion` and `view` (numbers)."""
    if n_lesions < 35:
        raise ValueError(f"n_lesions is {n_lesions}; at least 35 are needed for 5 lesions of each of the 7 types")
    rng = _seeded(seed, 0)
    diagnoses = np.repeat(list(TYPES), list(lesions_per_type(n_lesions).values()))
    rng.shuffle(diagnoses)
    rows = []
    for lesion, dx in enumerate(diagnoses.tolist()):
        about = TYPES[dx]
        age = 5 * round(float(np.clip(rng.normal(*about.age), 5, 85)) / 5)
        sex = "male" if rng.random() < about.male else "female"
        person = {
            "lesion_id": f"HAM_{9000001 + lesion}",
            "image_id": None,
            "dx": dx,
            "dx_type": _pick(rng, about.dx_type),
            "age": "" if rng.random() < 0.008 else f"{age:.1f}",
            "sex": "unknown" if rng.random() < 0.006 else sex,
            "localization": _pick(rng, about.sites),
        }
        n_views = int(_pick(rng, dict(enumerate(about.views, 1))))
        rows += [person | {"lesion": lesion, "view": view} for view in range(n_views)]
    for row, number in zip(rows, rng.permutation(len(rows)).tolist(), strict=True):
        row["image_id"] = f"ISIC_{9000001 + number}"
    return rows


def lesions_per_type(n_lesions: int) -> dict[str, int]:
    """Share `n_lesions` out over the types: HAM10000's shares, and no type under ``min(10, n_lesions // 7)``.

    Returns
    -------
    dict
        Number of lesions by diagnosis; they add up to `n_lesions`.
    """
    least = min(10, n_lesions // 7)
    counts = {dx: max(least, int(about.share * n_lesions)) for dx, about in TYPES.items()}
    counts["nv"] += n_lesions - sum(counts.values())  # the commonest by far: it pays for the rest
    return counts


def _pick(rng, weights):
    keys, values = list(weights), np.array(list(weights.values()), float)
    return keys[int(rng.choice(len(keys), p=values / values.sum()))]


def _draw_file(job):
    dx, seed, lesion, view, size, path = job
    picture = _picture(dx, _seeded(seed, 1, lesion), _seeded(seed, 2, lesion, view), size)
    picture.save(path, "JPEG", quality=92)
