"""Decoding of one JPEG file over the fastest other way that gives the same picture.

Ways: Pillow plain and with `draft`, TensorFlow plain and with a ratio, PyTurboJPEG where it is installed.  One thread.
A way counts where its pictures differ from plain Pillow's by at most `EQUAL` levels on average.
"""

import importlib
import tempfile

import numpy as np
from measured import Row, alternate, noise_files, ratio_row
from PIL import Image

from skin_tl.data.images import read_image

EQUAL = 1.0
"""Mean absolute difference, of 255 levels."""


def ways(size):
    """Return functions from a path to (size, size, 3) uint8, by name."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)

    def plain(path):
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC))

    def draft(path):
        with Image.open(path) as image:
            image.draft("RGB", (size, size))
            return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC))

    def tensorflow(path, ratio=1):
        image = tf.io.decode_jpeg(tf.io.read_file(str(path)), channels=3, ratio=ratio)
        image = tf.image.resize(image, (size, size), "bicubic", antialias=True)
        return tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8).numpy()

    found = {"Pillow": plain, "Pillow with draft": draft, "TensorFlow": tensorflow}
    found["TensorFlow, ratio 2"] = lambda path: tensorflow(path, 2)
    try:
        turbojpeg = importlib.import_module("turbojpeg")
        jpeg = turbojpeg.TurboJPEG()

        def turbo(path):
            pixels = jpeg.decode(path.read_bytes(), turbojpeg.TJPF_RGB)
            return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC))

        found["PyTurboJPEG"] = turbo
    except (ImportError, RuntimeError):
        pass
    return found


def measure(full):
    """Compare `read_image` with every way on images of HAM10000's size."""
    n, size = (1000 if full else 150), 224
    case = f"600×450 to {size} px, one thread, over {{}}"
    with tempfile.TemporaryDirectory() as folder:
        files = list(noise_files(folder, n, (450, 600)).values())
        others = ways(size)
        pictures = {name: np.stack([way(path) for path in files[:20]]).astype(int) for name, way in others.items()}
        apart = {name: np.abs(picture - pictures["Pillow"]).mean() for name, picture in pictures.items()}
        ours = np.stack([read_image(path, size) for path in files[:20]]).astype(int)
        sides = {"ours": lambda: [read_image(path, size) for path in files]}
        sides |= {name: lambda way=way: [way(path) for path in files] for name, way in others.items()}
        took = alternate(sides, 5)
    equal = [name for name in others if apart[name] <= EQUAL]
    fastest = min(equal, key=lambda name: sorted(took[name])[2])
    assert np.abs(ours - pictures["Pillow"]).mean() <= EQUAL
    for name in others:
        note = f"pictures differ by {apart[name]:.2g} levels" + ("" if name in equal else ": not the same")
        aim = ">= 1.0" if name == fastest else ""
        yield ratio_row("decoding", case.format(name), took["ours"], took[name], aim=aim, note=note)
    if "PyTurboJPEG" not in others:
        yield Row("decoding", case.format("PyTurboJPEG"), note="needs PyTurboJPEG and its library")
