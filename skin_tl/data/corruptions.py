"""Corruptions: what a camera or a file may do to a picture, at five severities.

Takes pixels, (size, size, 3) uint8; gives them changed.  The kinds and their grading follow D. Hendrycks and
T. Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations, ICLR 2019; the colour
cast stands for another camera.

Pillow and SciPy compute them, which the project has.  Libraries that were looked at, in November 2026: imagecorruptions
1.1.2 (released in 2020; one of its blurs fails with today's scikit-image; it needs OpenCV, 190 MB) and medmnistc 0.1.0
(2024; it needs PyTorch and ImageMagick) are not maintained; albumentations 2.0.8 ended in 2025 in favour of
albumentationsx, whose licence is AGPL-3.0, and this project's is MIT.  scikit-image 0.26 is maintained, yet has no
corruptions: severities and kernels would still stand here.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance
from scipy import ndimage

SEVERITIES = (1, 2, 3, 4, 5)

Change = Callable[[np.ndarray, int], np.ndarray]
"""From pixels, (size, size, 3) uint8, and severity to pixels."""


def _at(severity: int, *values: float) -> float:
    return values[severity - 1]


def _brightness(pixels: np.ndarray, severity: int) -> np.ndarray:
    factor = _at(severity, 0.85, 0.7, 0.55, 0.4, 0.25)
    return np.asarray(ImageEnhance.Brightness(Image.fromarray(pixels)).enhance(factor))


def _contrast(pixels: np.ndarray, severity: int) -> np.ndarray:
    factor = _at(severity, 0.8, 0.6, 0.45, 0.3, 0.15)
    return np.asarray(ImageEnhance.Contrast(Image.fromarray(pixels)).enhance(factor))


def _convolved(pixels: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    kernel = kernel / kernel.sum()
    blurred = [
        ndimage.convolve(plane, kernel, mode="nearest") for plane in np.moveaxis(pixels.astype(np.float32), 2, 0)
    ]
    return np.rint(np.stack(blurred, axis=2)).astype(np.uint8)


def _defocus(pixels: np.ndarray, severity: int) -> np.ndarray:
    """Blur by a disk, whose radius is a share of the picture's side."""
    radius = _at(severity, 0.008, 0.013, 0.019, 0.025, 0.032) * len(pixels)
    reach = np.arange(-np.ceil(radius), np.ceil(radius) + 1)
    # The rim of the disk is drawn smoothly, so that a radius of less than a pixel blurs too.
    return _convolved(pixels, np.clip(radius + 0.5 - np.hypot(*np.meshgrid(reach, reach)), 0, 1))


def _motion(pixels: np.ndarray, severity: int) -> np.ndarray:
    """Blur along the picture's diagonal, over a share of its side."""
    length = round(_at(severity, 0.02, 0.04, 0.06, 0.09, 0.12) * len(pixels))
    return _convolved(pixels, np.eye(length + 1, dtype=np.float32))


def _jpeg(pixels: np.ndarray, severity: int) -> np.ndarray:
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, "JPEG", quality=int(_at(severity, 50, 30, 18, 11, 6)))
        return np.asarray(Image.open(file).convert("RGB"))


def _pixelation(pixels: np.ndarray, severity: int) -> np.ndarray:
    size = len(pixels)
    small = max(1, round(size * _at(severity, 0.6, 0.45, 0.33, 0.24, 0.16)))
    picture = Image.fromarray(pixels).resize((small, small), Image.Resampling.BOX)
    return np.asarray(picture.resize((size, size), Image.Resampling.NEAREST))


def _colour_cast(pixels: np.ndarray, severity: int) -> np.ndarray:
    """Scale red up and blue down, as under warmer light."""
    strength = _at(severity, 0.06, 0.12, 0.2, 0.3, 0.4)
    cast = np.array([1 + 0.5 * strength, 1, 1 - strength], np.float32)
    return np.rint(np.clip(pixels * cast, 0, 255)).astype(np.uint8)


CORRUPTIONS: dict[str, Change] = {
    "brightness": _brightness,
    "contrast": _contrast,
    "defocus": _defocus,
    "motion": _motion,
    "jpeg": _jpeg,
    "pixelation": _pixelation,
    "colour_cast": _colour_cast,
}
"""By name, in the order of the report."""
