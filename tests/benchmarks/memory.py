"""How the memory of decoding and extraction grows with the number of images.

    python tests/benchmarks/memory.py [--images 10015 50000] [--size 224] [--backbone MobileNetV2]

Draws small JPEGs of noise, decodes them to `size` and extracts features with random weights (``--backbone none``: with
a network of one pooling layer, so that only the package's own part is seen), each number of images in a process of its
own.  Prints the anonymous memory (RssAnon, which leaves out memory-mapped files) after the first batch and its peak
after that.  Linux only.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path


def anonymous():
    """Return the process's anonymous resident memory in MiB."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) / 1024


def measure(n_images, size, backbone):
    """Decode and extract in this process; print the figures."""
    import io

    import keras
    import numpy as np
    from PIL import Image

    from skin_tl.data.images import decode
    from skin_tl.models.backbones import build_backbone
    from skin_tl.models.features import extract

    folder = Path(tempfile.mkdtemp(dir=os.environ["SKIN_TL_CACHE"]))
    rng = np.random.default_rng(0)
    for index in range(n_images):
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (15, 20, 3), np.uint8)).resize((200, 150)).save(stream, "JPEG")
        (folder / f"{index:06d}.jpg").write_bytes(stream.getvalue())
    peak, stop = [anonymous()], threading.Event()

    def watch():
        while not stop.wait(0.02):
            peak[0] = max(peak[0], anonymous())

    threading.Thread(target=watch, daemon=True).start()
    before, clock = anonymous(), time.perf_counter()
    images = decode({path.stem: path for path in folder.iterdir()}, size)
    print(f"{n_images} images, decoding: +{peak[0] - before:.0f} MiB, {time.perf_counter() - clock:.0f} s", flush=True)
    if backbone == "none":
        pixels = keras.Input((size, size, 3), dtype="uint8")
        pooled = keras.layers.GlobalAveragePooling2D()(keras.ops.cast(pixels, "float32"))
        model, backbone = keras.Model(pixels, pooled), "MobileNetV2"
    else:
        model = build_backbone(backbone, "native", size, {"source": "random"})
    model.predict_on_batch(np.zeros((32, size, size, 3), np.uint8))
    first = peak[0] = anonymous()
    clock = time.perf_counter()
    extract(images, backbone, "native", model)
    grown = peak[0] - first
    print(
        f"{n_images} images, extraction: {first:.0f} MiB after the first batch, +{grown:.0f} MiB at its peak, "
        f"{time.perf_counter() - clock:.0f} s",
        flush=True,
    )
    stop.set()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, nargs="+", default=[10_015, 50_000])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--backbone", default="MobileNetV2")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        return measure(options.images[0], options.size, options.backbone)
    for n_images in options.images:
        with tempfile.TemporaryDirectory() as cache:
            command = [sys.executable, __file__, "--here", "--images", str(n_images)]
            command += ["--size", str(options.size), "--backbone", options.backbone]
            environment = os.environ | {"SKIN_TL_CACHE": cache, "TF_CPP_MIN_LOG_LEVEL": "3"}
            subprocess.run(command, check=True, env=environment)


if __name__ == "__main__":
    main()
