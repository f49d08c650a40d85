"""Images: every file is decoded once into one array on disk.

Takes image files; gives an `ImageSet`, whose pixels are a memory-mapped array (n_images, size, size, 3) uint8 in
the order of the sorted image ids, kept below the cache under a key made of the files' content.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import cpu_count
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from skin_tl.errors import SkinTLError
from skin_tl.files import ROOT, alone, claim_space, existing, fingerprint, is_disk_full, printable, write_atomically
from skin_tl.progress import bar
from skin_tl.step_code import code_hash

LAYOUT = "array-1"
"""Names how the cache keeps pixels.  The hash of `read_image`'s code identifies how they come from a file."""

MOST_PIXELS = 180_000_000
"""Pixels of the largest image that is read."""

Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit, at which it gives a Python warning

OTHER_FORMATS = {
    "HEIC": rb".{4}ftyp(hei|hev|mif1|msf1)",
    "DICOM": rb".{128}DICM",
    "PDF": rb"%PDF-",
    "SVG": rb"(\xef\xbb\xbf)?\s*<(svg|(\?xml|!).*<svg)",
}
"""Formats of images that are not read, by how their files begin."""


def cache_folder() -> Path:
    """Return the folder of everything that can be computed again: ``SKIN_TL_CACHE``, or ``cache/``."""
    return Path(os.environ.get("SKIN_TL_CACHE") or ROOT / "cache")


def check_cache(written: bool = True) -> None:
    """Refuse a ``SKIN_TL_CACHE`` that is no folder and cannot become one, without leaving anything there.

    Parameters
    ----------
    written
        Whether a folder that is there has to be writable too.

    Raises
    ------
    SkinTLError
    """
    folder = cache_folder()
    if not os.environ.get("SKIN_TL_CACHE") or (folder.is_dir() and not written):
        return
    there = existing(folder)
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".skin-tl-", dir=there))
    except OSError as error:
        if not is_disk_full(error):  # which is told with what is needed
            raise SkinTLError(
                f"SKIN_TL_CACHE={folder}: nothing can be written there ({there}: {error.strerror}). Name a folder that "
                "you may write, made if it is not there, or unset SKIN_TL_CACHE to use cache/ of the project."
            ) from None


@dataclass(frozen=True)
class ImageSet:
    """Decoded images on disk.

    Attributes
    ----------
    key
        Fingerprint of the files' content and of how they were decoded.
    size
        Side in pixels.
    """

    key: str
    size: int

    @property
    def folder(self) -> Path:
        """The folder that holds the array and its index."""
        return cache_folder() / "images" / self.key

    @property
    def ids(self) -> list[str]:
        """Image ids in row order, list of str."""
        return pd.read_csv(self.folder / "index.csv", dtype=str, keep_default_na=False)["image_id"].tolist()

    @property
    def pixels(self) -> np.ndarray:
        """(n_images, size, size, 3) uint8, memory-mapped, read-only."""
        return np.load(self.folder / "images.npy", mmap_mode="r")


def decode(files: dict[str, str], size: int) -> ImageSet:
    """Decode image files, or find them decoded.

    Parameters
    ----------
    files
        Path by image id.
    size
        Side of the square that every image is squashed to (bicubic), in pixels.

    Raises
    ------
    SkinTLError
        If files are missing, empty, truncated or no images: one message that counts them and names the first.
    """
    ids = sorted(files)
    with ThreadPoolExecutor(cpu_count()) as pool:
        hashed = pool.map(lambda image_id: _hash(files[image_id]), ids)
        hashes = list(bar(hashed, total=len(ids), what="checking images", unit="img"))
    code = code_hash("data.images.read_image")
    images = ImageSet(fingerprint(LAYOUT, code, size, list(zip(ids, hashes, strict=True))), size)
    if not images.folder.is_dir():
        with alone(images.folder):
            if not images.folder.is_dir():  # another process was not faster
                _decode(images, files, ids)
    return images


def _decode(images, files, ids):
    """Fill the folder of an image set."""
    size = images.size
    with write_atomically(images.folder) as part:
        part.mkdir()
        pixels = np.lib.format.open_memmap(part / "images.npy", "w+", np.uint8, (len(ids), size, size, 3))
        with open(part / "images.npy", "r+b") as file:
            claim_space(file, pixels.nbytes)
        bad = []

        def fill(row):
            try:
                pixels[row] = read_image(files[ids[row]], size)
            except SkinTLError as error:
                bad.append((row, str(error)))

        with ThreadPoolExecutor(cpu_count()) as pool:
            list(bar(pool.map(fill, range(len(ids))), total=len(ids), what="decoding images", unit="img"))
        if bad:
            shown = "; ".join(message for _, message in sorted(bad)[:5])
            rest = f"; and {len(bad) - 5} more" if len(bad) > 5 else ""
            raise SkinTLError(
                f"{len(bad)} of {len(ids)} images cannot be read: {shown}{rest}. Replace these files, or remove their "
                "rows from the metadata."
            )
        pixels.flush()
        pd.DataFrame({"image_id": ids}).to_csv(part / "index.csv", index=False, lineterminator="\n")


def picture_hashes(images: ImageSet) -> dict[str, str]:
    """Return a hash of the pixels of each image of an `ImageSet`, by image id: dict of str."""
    pixels = images.pixels
    with ThreadPoolExecutor(cpu_count()) as pool:
        hashes = pool.map(lambda row: hashlib.sha256(pixels[row].tobytes()).hexdigest(), range(len(pixels)))
        return dict(zip(images.ids, bar(hashes, total=len(pixels), what="comparing images", unit="img"), strict=True))


def file_sizes(files: Iterable[str | Path]) -> list[dict[str, int]]:
    """Count the sizes of image files, from their headers alone.

    Returns
    -------
    list of dict
        width, height (pixels) and n_images, the most frequent size first.
    """

    def size_of(path):
        with Image.open(path) as image:
            return image.size

    with ThreadPoolExecutor(cpu_count()) as pool:
        counts = Counter(pool.map(size_of, files))
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [{"width": width, "height": height, "n_images": n} for (width, height), n in ordered]


def _hash(path):
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise SkinTLError(f"{path} cannot be read: {error.strerror}. Replace the file.") from None


@contextlib.contextmanager
def damaged_refused() -> Iterator[None]:
    """Leave Pillow as strict at the end of the block as it was: WeasyPrint lets it read damaged files when imported."""
    allowed = ImageFile.LOAD_TRUNCATED_IMAGES
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = allowed


def read_image(path: str | Path, size: int) -> np.ndarray:
    """Read one image file as the input of a backbone.

    It is turned upright by its EXIF orientation.  Samples of 9 to 16 bits are scaled to 8 bits by their bit depth, and
    grey-scale pictures are spread over three channels.

    Parameters
    ----------
    size
        Side of the square that it is squashed to, in pixels.

    Returns
    -------
    numpy.ndarray
        (size, size, 3) uint8.

    Raises
    ------
    SkinTLError
        If the file is missing, empty, truncated or no image; or if the file does not determine the pixels: it is
        transparent, has several frames, or samples without a known range.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(_rgb(image).resize((size, size), Image.Resampling.BICUBIC))
    except SkinTLError as error:
        reason = str(error)
    except UnidentifiedImageError:
        with open(path, "rb") as stream:
            begin = stream.read(1024)
        reason = "is not an image" if begin else "is empty (0 bytes)"
        for name, pattern in OTHER_FORMATS.items():
            if re.match(pattern, begin, re.DOTALL):
                reason = f"is in the format {name}, which is not read: convert it to PNG or JPEG"
    except FileNotFoundError:
        reason = "does not exist"
    except IsADirectoryError:
        reason = "is a folder (name the image files in it)"
    except PermissionError:
        reason = "may not be read: its permissions forbid it"
    except (OSError, EOFError, SyntaxError, ValueError) as error:
        unread = getattr(error, "errno", None)
        reason = f"cannot be read: {error.strerror}" if unread else f"is damaged ({error})"  # type: ignore[union-attr]
    raise SkinTLError(f"{printable(path)} {reason}")


def _rgb(image):
    """Return an opened image upright in RGB, 8 bits a sample; see `read_image`."""
    if image.width * image.height > MOST_PIXELS:
        raise SkinTLError(
            f"has {image.width} x {image.height} pixels, and at most {MOST_PIXELS:,} are read: make it smaller"
        )
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # a JPEG of a telephone, whose first frame is the photograph
        raise SkinTLError(f"has {frames} frames: save the one that is meant as PNG or JPEG")
    transparent = image.info.get("transparency")
    tags = getattr(image, "tag_v2", {})
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        bits = tags.get(258, (16,))[0]  # BitsPerSample of TIFF
        values = np.asarray(image)
        hidden = transparent is not None and (values == transparent).any()
        values = np.rint(values * (255 / (2**bits - 1))).astype(np.uint8)
        image = Image.fromarray(255 - values if tags.get(262) == 0 else values)  # WhiteIsZero of TIFF
    elif image.mode in ("I", "F"):
        raise SkinTLError(
            "has samples of 32 bits or with a sign, whose range is unknown: save it as PNG of 8 or 16 bits, or as JPEG"
        )
    else:
        hidden = image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] < 255
    if hidden:
        raise SkinTLError("is transparent in places: save it without transparency, on the background that is meant")
    return image.convert("RGB")
