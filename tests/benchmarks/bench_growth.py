"""How time and memory of decoding and extraction grow with the number of images.

Each number of images is decoded and passed through a network of one pooling layer, so that only the package's own part
is measured, in a process of its own.  Memory is anonymous (RssAnon, which leaves out memory-mapped files): Linux only.
"""

import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from measured import Skipped, noise_files, ratio_row

SIZE = 32
DISTINCT = 1000
"""Files that are drawn; all further ones are links to them, as only the number matters."""


def anonymous():
    """Return the process's anonymous resident memory in MiB."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) / 1024


def measure_here(n_images):
    """Decode and extract in this process; print seconds and MiB of both."""
    import keras
    import numpy as np

    from skin_tl.data.images import decode
    from skin_tl.models.features import extract

    drawn = noise_files(tempfile.mkdtemp(dir=os.environ["SKIN_TL_CACHE"]), min(n_images, DISTINCT), (60, 80))
    files = list(drawn.values())
    files = {f"{number:07d}": files[number % DISTINCT] for number in range(n_images)}
    decode(drawn, SIZE)
    pixels = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    model = keras.Model(pixels, keras.layers.GlobalAveragePooling2D()(keras.ops.cast(pixels, "float32")))
    model.predict_on_batch(np.zeros((32, SIZE, SIZE, 3), np.uint8))
    before = anonymous()
    peak, stop = [before], threading.Event()

    def watch():
        while not stop.wait(0.02):
            peak[0] = max(peak[0], anonymous())

    threading.Thread(target=watch, daemon=True).start()
    clock = time.process_time()
    images = decode(files, SIZE)
    decoded = time.process_time()
    extract(images, "MobileNetV2", "native", model)
    extracted = time.process_time()
    stop.set()
    print(decoded - clock, extracted - decoded, peak[0] - before)


def measure(full):
    """Compare numbers of images, each ten times the last."""
    if not Path("/proc/self/status").is_file():
        raise Skipped("needs Linux")
    sizes, turns = (1000, 10_000, 100_000) if full else (1000, 10_000), 3
    found = [{n: _of(n) for n in sizes} for _ in range(turns)]
    for step, what in enumerate(("decoding", "extraction")):
        for few, many in itertools.pairwise(sizes):
            ours, other = ([1e6 * turn[n][step] / n for turn in found] for n in (many, few))
            case = f"{what}, processor time of an image: {many:,} images over {few:,}"
            yield ratio_row("growth", case, ours, other, faster=False, unit="µs", aim="<= 1.1")
    for few, many in itertools.pairwise(sizes):
        ours, other = ([turn[n][2] for turn in found] for n in (many, few))
        further = 2**20 * (statistics.median(ours) - statistics.median(other)) / (many - few)
        note = f"{further:,.0f} bytes for each further image"
        case = f"peak of memory beyond the start: {many:,} images over {few:,}"
        yield ratio_row("growth", case, ours, other, faster=False, unit="MiB", note=note)


def _of(n_images):
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"SKIN_TL_CACHE": cache, "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, __file__, str(n_images)]
        said = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True).stdout
    return [float(word) for word in said.splitlines()[-1].split()]


if __name__ == "__main__":
    measure_here(int(sys.argv[1]))
