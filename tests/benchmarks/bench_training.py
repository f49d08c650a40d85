"""A step of fine-tuning over the same step in plain Keras and in PyTorch, and how long a network waits for its data.

Plain Keras is the recipe of its guides: the network called with ``training=False``, pooling, a dense layer, AdamW, and
augmentation by Keras's own layers, trained by `fit` on preloaded batches in memory.  PyTorch's is torchvision's network
in evaluation mode, channels last, compiled where that works, with AdamW and no augmentation.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
from measured import Row, Skipped, alternate, compiled_or_plain, ratio_row, torch_network

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


class Plain(keras.utils.PyDataset):
    """As many batches of pixels and wanted probabilities, all the same."""

    def __init__(self, ready):
        super().__init__()
        (inputs, wanted), self.n = ready[0][:2], len(ready)
        self.batch = np.asarray(inputs["pixels"], np.float32), wanted

    def __len__(self):
        return self.n

    def __getitem__(self, step):
        return self.batch


def plain_network(backbone, size):
    """Return the compiled network that a user of Keras's guide would fine-tune."""
    base = getattr(keras.applications, backbone)(include_top=False, weights=None, input_shape=(size, size, 3))
    pixels = keras.Input((size, size, 3))
    shown = pixels
    for layer in (
        keras.layers.RandomFlip(),
        keras.layers.RandomTranslation(0.1, 0.1),
        keras.layers.RandomZoom(0.1),
        keras.layers.RandomBrightness(0.1),
        keras.layers.RandomContrast(0.1),
    ):
        shown = layer(shown)
    features = base(keras.layers.Rescaling(1 / 127.5, offset=-1)(shown), training=False)
    pooled = keras.layers.GlobalAveragePooling2D()(features)
    network = keras.Model(pixels, keras.layers.Dense(len(CLASSES), "softmax")(pooled))
    network.compile(keras.optimizers.AdamW(1e-4), "categorical_crossentropy", metrics=["accuracy"])
    return network


def torch_steps(backbone, batch, n_steps):
    """Return a function that trains PyTorch's network for some steps, and a word on how.

    Parameters
    ----------
    batch : tuple of ndarray
        Pixels, (n, size, size, 3) float32, and wanted probabilities, (n, 7).
    """
    torch, network = torch_network(backbone, num_classes=len(CLASSES))
    pixels = torch.from_numpy(batch[0] / 127.5 - 1).permute(0, 3, 1, 2)
    wanted = torch.from_numpy(np.asarray(batch[1], np.float32))
    network.eval()  # as `training=False`: batch normalisation keeps its statistics
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4)

    def step(body):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(body(pixels), wanted).backward()
        optimizer.step()

    body, how = compiled_or_plain(torch, step, network)
    return lambda: [step(body) for _ in range(n_steps)], how


def measure(full):
    """Compare steps of one network."""
    backbone, size, batch, steps, turns = ("ResNet50", 224, 32, 10, 5) if full else ("MobileNetV2", 96, 32, 12, 5)
    settings = {"name": "x", "title": "x", "dataset": "synthetic", "backbones": [backbone], "seeds": [0]}
    settings |= {"strategies": ["fine_tuning"], "image_size": size, "batch": batch}
    study, n = check_study(settings), batch * steps
    rng, labels = np.random.default_rng(0), np.arange(n) % len(CLASSES)
    with tempfile.TemporaryDirectory() as folder, on_device(study):
        np.save(Path(folder, "pixels.npy"), rng.integers(0, 256, (n, size, size, 3), np.uint8))
        pixels = np.load(Path(folder, "pixels.npy"), mmap_mode="r")
        job = Job(study, "fine_tuning", backbone, None, None, {"source": "random"}, None)
        network, plain = Network(job, "native", 0, None, np.bincount(labels)), plain_network(backbone, size)
        given = (pixels, labels, np.arange(n), study, 0, 1)
        ready = Ready(*given)
        theirs = Plain(ready)
        sides = {
            "ours": lambda: network.training.fit(Batches(*given), shuffle=False, verbose=0),
            "ready": lambda: network.training.fit(ready, shuffle=False, verbose=0),
            "plain": lambda: plain.fit(theirs, shuffle=False, verbose=0),
        }
        try:
            sides["torch"], how = torch_steps(backbone, theirs.batch, steps)
        except Skipped as reason:
            how = str(reason)
        with network.mixed_precision():
            took = alternate(sides, turns)
    took = {name: [spent / steps for spent in spents] for name, spents in took.items()}
    case = f"{backbone}, {size} px, batch {batch}, {precision_of(study)}, one step, over "
    note = "ours also clips gradients and averages weights"
    yield ratio_row("fine-tuning", f"{case}plain Keras", took["ours"], took["plain"], aim=">= 1.0", note=note)
    if "torch" in took:
        note = f"{how}; ours also augments, clips gradients and averages weights"
        yield ratio_row("fine-tuning", f"{case}PyTorch", took["ours"], took["torch"], aim=">= 1.0", note=note)
    else:
        yield Row("fine-tuning", f"{case}PyTorch", note=how)
    case = f"{case}preloaded batches"
    row = ratio_row("fine-tuning", case, took["ours"], took["ready"], faster=False, aim="<= 1.05")
    yield replace(row, note=f"waits for data {max(0, 1 - 1 / row.ratio):.1%} of its time")
