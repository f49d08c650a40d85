"""What extraction costs beyond the plain forward passes that it contains.

    SKIN_TL_WEIGHTS=/folder python tests/benchmarks/extraction.py [--backbones ResNet50 Xception] [--images 320]

Draws images of noise, decodes them, and passes them through each backbone in turns: by
`skin_tl.models.features.extract`, and by the network of `keras.applications` alone, fed with float batches that lie in
memory already.  Prints the wall times of both, the best of the turns, and their ratio; random weights where
SKIN_TL_WEIGHTS is not set.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

import numpy as np
from PIL import Image

from skin_tl.data.images import cache_folder, decode
from skin_tl.models.backbones import build_backbone
from skin_tl.models.features import BATCH, extract


def weights_of(backbone):
    """Return where a backbone's weights come from, as `build_backbone` takes it."""
    folder = os.environ.get("SKIN_TL_WEIGHTS")
    file = f"{folder}/{backbone.lower()}_notop.weights.h5"
    return {"source": "file", "file": file} if folder else {"source": "random"}


def measure(backbone, images, turns):
    """Return the best wall times in s of extraction and of the plain passes over the same images."""
    model = build_backbone(backbone, "native", images.size, weights_of(backbone))
    plain = model.layers[-1]  # the network as keras.applications made it
    rows = range(0, len(images.ids), BATCH)
    batches = [np.asarray(images.pixels[first : first + BATCH], np.float32) for first in rows]
    model.predict_on_batch(np.zeros((BATCH, images.size, images.size, 3), np.uint8))
    plain.predict_on_batch(batches[0])
    ours, plains = [], []
    for _ in range(turns):
        shutil.rmtree(cache_folder() / "features", ignore_errors=True)
        ours.append(seconds(lambda: extract(images, backbone, "native", model)))
        plains.append(seconds(lambda: [plain.predict_on_batch(batch) for batch in batches]))
    return min(ours), min(plains)


def seconds(run):
    """Return the wall time of a call in s."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=["ResNet50", "Xception", "VGG16"])
    parser.add_argument("--images", type=int, default=320)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["SKIN_TL_CACHE"] = cache
        rng, files = np.random.default_rng(0), {}
        for number in range(options.images):
            files[f"{number:05d}"] = Path(cache) / f"{number:05d}.png"
            Image.fromarray(rng.integers(0, 256, (150, 200, 3), np.uint8)).save(files[f"{number:05d}"])
        images = decode(files, options.size)
        for backbone in options.backbones:
            ours, plain = measure(backbone, images, options.turns)
            print(f"{backbone:16} extraction {ours:6.1f} s, plain passes {plain:6.1f} s, ratio {ours / plain:.3f}")


if __name__ == "__main__":
    main()
