"""Extraction of features over the bare compiled pass of the same network, and over PyTorch.

The bare pass is the network of `keras.applications` alone, fed with float batches that lie in memory.  PyTorch's
network is torchvision's, channels last, compiled where that works.  All weights are random.
"""

import os
import shutil
import tempfile

import numpy as np
from measured import Row, Skipped, alternate, compiled_or_plain, noise_files, ratio_row, torch_network

SIZE = 224


def measure(full):
    """Compare on images of noise."""
    from skin_tl.data.images import decode

    with tempfile.TemporaryDirectory() as cache:
        os.environ["SKIN_TL_CACHE"] = cache
        n, turns = (640, 5) if full else (96, 4)
        images = decode(noise_files(cache, n), SIZE)
        for backbone in ("ResNet50", "Xception", "VGG16") if full else ("ResNet50",):
            yield from _measure(backbone, images, turns)


def _measure(backbone, images, turns):
    from skin_tl.data.images import cache_folder
    from skin_tl.models.backbones import build_backbone
    from skin_tl.models.features import BATCH, extract

    model = build_backbone(backbone, "native", images.size, {"source": "random"})
    plain = model.layers[-1]  # the network as keras.applications made it
    rows = range(0, len(images.ids), BATCH)
    batches = [np.asarray(images.pixels[first : first + BATCH], np.float32) for first in rows]

    def ours():
        shutil.rmtree(cache_folder() / "features", ignore_errors=True)
        extract(images, backbone, "native", model)

    # `extract` makes one pass more, which compiles; it is compiled here.
    bare = [batches[0], *batches]
    took = alternate({"ours": ours, "bare": lambda: [plain.predict_on_batch(batch) for batch in bare]}, turns)
    case = f"{backbone}, {len(images.ids)} images of {SIZE} px, over "
    yield ratio_row("extraction", f"{case}the bare pass", took["ours"], took["bare"], aim=">= 0.98")
    yield _half_precision(backbone, plain, batches, turns, case)
    case += "PyTorch"
    try:
        theirs, how = _torch(backbone, batches)
    except Skipped as reason:
        yield Row("extraction", case, note=str(reason))
        return
    took = alternate({"ours": ours, "torch": lambda: [theirs(batch) for batch in [batches[0], *batches]]}, turns)
    yield ratio_row("extraction", case, took["ours"], took["torch"], aim=">= 1.0", note=how)


def _half_precision(backbone, plain, batches, turns, case):
    """Compare the bare pass in bfloat16 with the one in float32."""
    import keras

    half = keras.models.clone_model(plain, clone_function=_in_bfloat16)
    half.set_weights(plain.get_weights())
    took = alternate(
        {
            "half": lambda: [half.predict_on_batch(batch) for batch in batches],
            "full": lambda: [plain.predict_on_batch(batch) for batch in batches],
        },
        turns,
    )
    exact, rounded = (np.asarray(network.predict_on_batch(batches[0]), np.float32) for network in (plain, half))
    apart = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
    note = f"features differ by {apart:.1%} (norm); not used by any study"
    return ratio_row(
        "extraction", f"{case}itself: bare pass in bfloat16 over float32", took["half"], took["full"], note=note
    )


def _in_bfloat16(layer):
    import keras

    settings = layer.get_config()
    if not isinstance(layer, keras.layers.InputLayer):
        settings["dtype"] = "mixed_bfloat16"
    return layer.__class__.from_config(settings)


def _torch(backbone, batches):
    """Return a function that passes a batch through PyTorch's network, and a word on how."""
    torch, network = torch_network(backbone)
    body = torch.nn.Sequential(*list(network.children())[:-1]).eval()

    def run(body, batch=batches[0]):
        with torch.inference_mode():
            pixels = torch.from_numpy(batch).permute(0, 3, 1, 2)  # channels last as it lies
            return body(pixels).numpy()

    body, how = compiled_or_plain(torch, run, body)
    return lambda batch: run(body, batch), how
