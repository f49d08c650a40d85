"""How long a network that is trained waits for its data.

    python tests/benchmarks/training.py [--backbone MobileNetV2] [--size 96] [--batch 32] [--steps 20] [--turns 3]

Trains a network from random weights for epochs of `--steps` steps, in turns: with batches as `skin_tl.models.tuning`
makes them from a memory-mapped array, and with one batch that lies ready in memory.  Prints images per second of both,
the best of the turns, and the share of its time that the network waits: 1 minus the ratio of the two times.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

import keras
import numpy as np

from skin_tl.models.augmentation import Batches
from skin_tl.models.devices import on_device, precision_of
from skin_tl.models.heads import Job
from skin_tl.models.networks import Network
from skin_tl.schema import CLASSES
from skin_tl.study import check_study


class Ready(Batches):
    """The same batches as `Batches` in number and shape; all are the first."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.first = super().__getitem__(0)

    def __getitem__(self, step):
        return self.first


def seconds(network, batches):
    """Return how long an epoch takes."""
    with network.mixed_precision():
        clock = time.perf_counter()
        network.training.fit(batches, shuffle=False, verbose=0)
        return time.perf_counter() - clock


def main():
    """Print the measurement."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backbone", default="MobileNetV2")
    for name, value in (("size", 96), ("batch", 32), ("steps", 20), ("turns", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    settings = {"name": "x", "title": "x", "dataset": "synthetic", "backbones": [options.backbone], "seeds": [0]}
    settings |= {"strategies": ["from_scratch"], "image_size": options.size, "batch": options.batch}
    study = check_study(settings)
    n = options.batch * options.steps
    rng = np.random.default_rng(0)
    labels = np.arange(n) % len(CLASSES)
    with tempfile.TemporaryDirectory() as folder, on_device(study):
        np.save(Path(folder) / "pixels.npy", rng.integers(0, 256, (n, options.size, options.size, 3), np.uint8))
        pixels = np.load(Path(folder) / "pixels.npy", mmap_mode="r")
        job = Job(study, "from_scratch", options.backbone, None, None, {"source": "random"}, None)
        network = Network(job, "native", 0, None, np.bincount(labels))
        best = {}
        for turn in range(-1, options.turns):  # the first compiles
            for kind in (Batches, Ready):
                took = seconds(network, kind(pixels, labels, np.arange(n), study, 0, turn + 1))
                if turn >= 0:
                    best[kind] = min(took, best.get(kind, took))
    print(
        f"{options.backbone}, {options.size} px, batches of {options.batch}, {precision_of(study)}, "
        f"{keras.backend.backend()}: {n / best[Batches]:.0f} images/s, with batches that lie ready "
        f"{n / best[Ready]:.0f}; it waits {max(0, 1 - best[Ready] / best[Batches]):.1%} of its time"
    )


if __name__ == "__main__":
    main()
