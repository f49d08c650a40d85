"""Export: the models of a finished study in formats that need no Keras.

Takes ``runs/<study>/``; gives ``export/`` in each run's folder: ``model.onnx`` and ``model.tflite``, both checked to
give the probabilities of ``model.keras``, and ``MODEL_CARD.md``.  ``./run_all.sh export`` calls it.
"""

import importlib
import importlib.metadata
import importlib.util
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from skin_tl.apps.model_card import model_card
from skin_tl.apps.predict import show
from skin_tl.apps.runs import Run, find_study, finished_runs, load_keras, read_model
from skin_tl.data.images import ImageSet, check_cache
from skin_tl.errors import SkinTLError
from skin_tl.evaluation.predictions import read_predictions
from skin_tl.explain.explanations import explained_head, tested_images
from skin_tl.files import ROOT, file_fingerprint, write_atomically
from skin_tl.models.backbones import all_layers, head_layers, import_keras, network_of, scale_pixels
from skin_tl.progress import say
from skin_tl.study import load_study

if TYPE_CHECKING:
    import keras

FORMATS = {"onnx": "model.onnx", "litert": "model.tflite"}
"""File name of each format, by the name that `keras.Model.export` has for it."""

PACKAGES = {"onnx": ("onnx", "onnxruntime", "tf2onnx"), "litert": ("ai_edge_litert",)}
"""Modules that a format needs beyond the usual ones; ``locks/export.lock`` pins them."""

CARD = "MODEL_CARD.md"

TOLERANCE = 1e-4
"""How far a probability of an exported file may be from that of ``model.keras``."""

N_PER_DIAGNOSIS = 5
"""Test images of each diagnosis that an exported file is checked with, at most."""

N_RANDOM = 32
"""Images of random pixels that it is checked with where the decoded images are gone."""

BATCHES = (1, 3, 8)
"""Images per forward pass of the check: the first, the second, and all further ones."""


@dataclass(frozen=True)
class Exported:
    """A file that gives the probabilities of its run's ``model.keras``.

    Attributes
    ----------
    file
    n_bytes
    fingerprint
        Of its bytes.
    difference
        The largest one between their probabilities.
    n_images
        How many were compared.
    real
        Whether these were test images; otherwise, random pixels.
    """

    file: Path
    n_bytes: int
    fingerprint: str
    difference: float
    n_images: int
    real: bool

    def __str__(self) -> str:
        what = "test images" if self.real else "images of random pixels, as the decoded ones are not in the cache"
        told = f"largest difference of probabilities {self.difference:.1e} ({self.n_images} {what})"
        return f"{os.path.relpath(self.file)}: {self.n_bytes / 1e6:.1f} MB, {told}"


# --- Converting -------------------------------------------------------------------------------------------------------


def check_packages(formats: Sequence[str]) -> None:
    """Check that the packages that the formats need are installed.

    Raises
    ------
    SkinTLError
        If a package is missing.
    """
    for name in dict.fromkeys(name for of in formats for name in PACKAGES[of]):
        if importlib.util.find_spec(name) is None:
            raise SkinTLError(
                f"Exporting needs the package {name.replace('_', '-')}, which is not installed. Run "
                "`./run_all.sh export`, which installs it into .venv, or "
                "`pip install --require-hashes -r locks/export.lock`."
            )


def convertible(whole: "keras.Model", backbone: str, preprocessing: str) -> "keras.Model":
    """Return a model with the weights of a run's model that Keras can export.

    The constants of the scaling, and what `keras.layers.Normalization` knows, are tensors in a model that was read from
    a file, and the converter to ONNX takes such tensors for inputs.  So the scaling is called again, with constants of
    Python, and those layers get arrays.

    Parameters
    ----------
    whole
        A run's ``model.keras``.  Its Normalization layers are changed.
    backbone
    preprocessing

    Returns
    -------
    keras.Model
        From (n, size, size, 3) uint8 to (n, 7) float32.
    """
    keras = import_keras()

    for layer in all_layers(whole):
        if isinstance(layer, keras.layers.Normalization):
            layer.mean, layer.variance = (keras.ops.convert_to_numpy(value) for value in (layer.mean, layer.variance))

    class Convertible(keras.Model):  # type: ignore[name-defined]  # keras is imported by import_keras
        def __init__(self):
            super().__init__(name=backbone)
            self.network, self.head = network_of(whole), head_layers(whole)

        def call(self, pixels):
            scaled = scale_pixels(keras.ops.cast(pixels, "float32"), backbone, preprocessing)
            values = self.network(scaled, training=False)
            for layer in self.head:
                values = layer(values, training=False)
            return values

    model = Convertible()
    model(keras.ops.zeros((1, *whole.input_shape[1:]), "uint8"))  # what was never called cannot be exported
    return model


def convert(model: "keras.Model", kind: str, size: int, path: Path) -> None:
    """Write a model that `convertible` gave in a format, one of `FORMATS`."""
    keras = import_keras()

    pixels = keras.InputSpec(shape=(None, size, size, 3), dtype="uint8", name="pixels")
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)  # it names each operation that it cannot convert; we run it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of Keras's own look at NumPy
        model.export(str(path), format=kind, verbose=False, input_signature=[pixels])


# --- Checking ---------------------------------------------------------------------------------------------------------


def run_onnx(path: Path, batches: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return what a file says of batches of pixels, (n, 7) each."""
    session = importlib.import_module("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return [session.run(None, {name: batch})[0] for batch in batches]


def run_litert(path: Path, batches: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return what a file says of batches of pixels, (n, 7) each."""
    model = importlib.import_module("ai_edge_litert.interpreter").Interpreter(str(path))
    given, answer = model.get_input_details()[0]["index"], model.get_output_details()[0]["index"]
    said = []
    for batch in batches:
        model.resize_tensor_input(given, batch.shape)
        model.allocate_tensors()
        model.set_tensor(given, batch)
        model.invoke()
        said.append(model.get_tensor(answer))
    return said


RUN = {"onnx": run_onnx, "litert": run_litert}


def images_to_check(run: Run, tested: pd.DataFrame) -> tuple[np.ndarray, bool]:
    """Choose the images that exported files are checked with.

    Parameters
    ----------
    run
    tested
        From `skin_tl.explain.explanations.tested_images`.

    Returns
    -------
    pixels : numpy.ndarray
        (n_images, size, size, 3) uint8.
    real : bool
        Whether they are test images; otherwise the decoded images are not in the cache, and the pixels are random.
    """
    size = run.study.image_size
    images = ImageSet(run.record["data_fingerprint"], size)
    if not images.folder.is_dir():
        return np.random.default_rng(0).integers(0, 256, (N_RANDOM, size, size, 3), dtype=np.uint8), False
    chosen = tested.groupby("dx").head(N_PER_DIAGNOSIS)["image_id"]
    return images.pixels[pd.Index(images.ids).get_indexer(chosen)], True


def into_batches(pixels: np.ndarray) -> list[np.ndarray]:
    """Divide images into batches of the sizes `BATCHES`; the last one holds what is left."""
    one, few, many = BATCHES
    return [part for part in np.split(pixels, [one, *range(one + few, len(pixels), many)]) if len(part)]


def largest_difference(said: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    """Return the largest absolute difference between two lists of arrays; NaN if there is any."""
    if [part.shape for part in said] != [part.shape for part in expected]:
        return np.inf
    return float(np.max([np.abs(one - other).max() for one, other in zip(said, expected, strict=True)]))


# --- ./run_all.sh export ----------------------------------------------------------------------------------------------


def export_run(run: Run, formats: Sequence[str], metrics_file: Path) -> list[Exported]:
    """Export a run's model; its folder ``export/`` is written whole or not at all.

    Parameters
    ----------
    run
    formats
        Of `FORMATS`; those that the folder holds already are exported again too.
    metrics_file
        ``report/<study>/metrics.csv``, there or not.

    Raises
    ------
    SkinTLError
        If the model cannot be read or converted, or a file gives other probabilities.
    """
    folder = run.folder / "export"
    # One card tells of all files beside it: what was exported before is exported again with the rest.
    kinds = [kind for kind in FORMATS if kind in formats or (folder / FORMATS[kind]).is_file()]
    check_packages(kinds)
    load_keras()
    keras = import_keras()

    predictions = read_predictions(run.folder / "predictions.csv")
    pixels, real = images_to_check(run, tested_images(predictions, run.study))
    batches, exported = into_batches(pixels), {}
    say(f"exporting {run.backbone}, {run.strategy}: {', '.join(FORMATS[kind] for kind in kinds)} …")
    with keras.device("cpu"), write_atomically(folder) as part:  # a GPU rounds otherwise
        part.mkdir()
        whole, _, _ = read_model(run, run.study.image_size)
        expected = [keras.ops.convert_to_numpy(whole.predict_on_batch(batch)) for batch in batches]
        model = convertible(whole, run.backbone, explained_head(run.study)["preprocessing"])
        for kind in kinds:
            path, final = part / FORMATS[kind], folder / FORMATS[kind]
            remedy = "Choose another format: --format."
            if kind not in formats:  # it is there from an earlier export
                remedy = f"It was exported before: delete {final} to export the others without it."
            difference = _export(model, kind, path, final, batches, expected, remedy)
            size = path.stat().st_size
            exported[kind] = Exported(final, size, file_fingerprint(path), difference, len(pixels), real)
        card = write_card(run, exported, predictions, metrics_file)
        (part / CARD).write_text(card, encoding="utf-8", newline="\n")
    return list(exported.values())


def _export(model, kind, path, final, batches, expected, remedy):
    """Write a file; return how far its probabilities are from those expected.  Errors name `final` and `remedy`."""
    try:
        convert(model, kind, batches[0].shape[1], path)
        difference = largest_difference(RUN[kind](path, batches), expected)
    except Exception as error:  # converters and interpreters raise many types
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise SkinTLError(f"{final} could not be made and run ({reason}). Nothing was kept. {remedy}") from error
    if not difference <= TOLERANCE:
        raise SkinTLError(
            f"{final} gives other probabilities than model.keras: they differ by up to {difference:.1e}, and "
            f"{TOLERANCE:.0e} is allowed. Nothing was kept. {remedy}"
        )
    return difference


def write_card(run: Run, exported: Mapping[str, Exported], predictions: pd.DataFrame, metrics_file: Path) -> str:
    """Return the card of a run's exported files, see `skin_tl.apps.model_card.model_card`."""
    packages = ["keras", "tensorflow", *(name for kind in exported for name in PACKAGES[kind])]
    check = {
        "per_diagnosis": N_PER_DIAGNOSIS,
        "tolerance": TOLERANCE,
        "batches": f"{', '.join(map(str, BATCHES[:-1]))} and {BATCHES[-1]}",
        "with": ", ".join(f"{name.replace('_', '-')} {importlib.metadata.version(name)}" for name in packages),
    }
    return model_card(run, exported, check, predictions, metrics_file)


def runs_to_export(
    study: str | Path | None = None,
    backbones: Sequence[str] | None = None,
    formats: Sequence[str] = tuple(FORMATS),
    root: Path = ROOT,
) -> list[Run]:
    """Find what is to be exported, which needs no package beyond the usual ones.

    Parameters
    ----------
    study
        See `skin_tl.apps.runs.find_study`.
    backbones
        Only these.
    formats
        Of `FORMATS`.
    root
        Folder that holds ``runs/`` and ``report/``.

    Raises
    ------
    SkinTLError
        If there is nothing to export, a format is unknown, or Keras would compute with something else than TensorFlow.
    """
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    if backend != "tensorflow":
        raise SkinTLError(
            f"KERAS_BACKEND={backend} cannot export. Use KERAS_BACKEND=tensorflow ./run_all.sh export: it reads a "
            "model.keras that was trained with the other."
        )
    if not formats:
        raise SkinTLError(f"--format names no format. Name one of {', '.join(FORMATS)}.")
    for name in formats:
        if name not in FORMATS:
            raise SkinTLError(f"--format={name} is unknown. Name one of {', '.join(FORMATS)}.")
    runs = finished_runs(find_study(study, root), backbones)
    check_cache(written=False)
    return runs


def export(study: str | None, backbones: Sequence[str], formats: Sequence[str], root: Path = ROOT) -> None:
    """Export the models of a finished study and print what was written; parameters as in `runs_to_export`."""
    for found in runs_to_export(study, backbones, formats, root):
        name = load_study(found.study_folder / "study.json").name
        for exported in export_run(found, formats, root / "report" / name / "metrics.csv"):
            show(exported)
