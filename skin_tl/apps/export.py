"""Export: the models of a finished study in formats that need no Keras.

Takes ``runs/<study>/``; gives ``export/`` in each run's folder: ``model.onnx`` and ``model.tflite``, both checked to
give the probabilities of ``model.keras``, and ``MODEL_CARD.md``.  ``./run_all.sh export`` calls it.
"""

import argparse
import importlib
import importlib.metadata
import importlib.util
import logging
import os
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd

from skin_tl.apps.predict import Parser, as_list, run_command, show
from skin_tl.apps.runs import find_study, finished_runs, load_keras, read_model
from skin_tl.data.images import ImageSet, check_cache
from skin_tl.data.preparation import read_splits
from skin_tl.errors import SkinTLError
from skin_tl.evaluation.metric_list import names_of
from skin_tl.files import ROOT, file_fingerprint, read_json, write_atomically
from skin_tl.models.backbones import all_layers, head_layers, import_keras, network_of, scale_pixels
from skin_tl.models.runs import weights_note
from skin_tl.progress import say
from skin_tl.registry import transform_of
from skin_tl.reporting.texts import labels
from skin_tl.schema import CLASSES, SUBSETS, TUNED
from skin_tl.study import check_study, command_of, load_study

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

METRICS = names_of(lambda metric: metric.on_card)
"""What the card tells of all diagnoses; of each alone F1, and sensitivity if malignant or in situ/premalignant."""


@dataclass(frozen=True)
class Exported:
    """A file that gives the probabilities of its run's ``model.keras``.

    Attributes
    ----------
    file : pathlib.Path
    n_bytes : int
    fingerprint : str
        Of its bytes.
    difference : float
        The largest one between their probabilities.
    n_images : int
        How many were compared.
    real : bool
        Whether these were test images; otherwise, random pixels.
    """

    file: Path
    n_bytes: int
    fingerprint: str
    difference: float
    n_images: int
    real: bool

    def __str__(self):
        what = "test images" if self.real else "images of random pixels, as the decoded ones are not in the cache"
        told = f"largest difference of probabilities {self.difference:.1e} ({self.n_images} {what})"
        return f"{os.path.relpath(self.file)}: {self.n_bytes / 1e6:.1f} MB, {told}"


# --- Converting -------------------------------------------------------------------------------------------------------


def check_packages(formats):
    """Make sure that what the formats need is there.

    Raises
    ------
    SkinTLError
        If a package is missing.
    """
    for name in dict.fromkeys(name for of in formats for name in PACKAGES[of]):
        if importlib.util.find_spec(name) is None:
            raise SkinTLError(
                f"Exporting needs the package {name.replace('_', '-')}, which is not installed. `./run_all.sh export` "
                "installs it into .venv; elsewhere: pip install --require-hashes -r locks/export.lock"
            )


def convertible(whole, backbone, preprocessing):
    """Return a model with the weights of a run's model that Keras can export.

    The constants of the scaling, and what `keras.layers.Normalization` knows, are tensors in a model that was read from
    a file, and the converter to ONNX takes such tensors for inputs.  So the scaling is called again, with constants of
    Python, and those layers get arrays.

    Parameters
    ----------
    whole : keras.Model
        A run's ``model.keras``.  Its Normalization layers are changed.
    backbone : str
    preprocessing : {'native', 'unit'}

    Returns
    -------
    keras.Model
        From (n, size, size, 3) uint8 to (n, 7) float32.
    """
    keras = import_keras()

    for layer in all_layers(whole):
        if isinstance(layer, keras.layers.Normalization):
            layer.mean, layer.variance = (keras.ops.convert_to_numpy(value) for value in (layer.mean, layer.variance))

    class Convertible(keras.Model):
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


def convert(model, kind, size, path):
    """Write a model that `convertible` gave in a format, one of `FORMATS`."""
    keras = import_keras()

    pixels = keras.InputSpec(shape=(None, size, size, 3), dtype="uint8", name="pixels")
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)  # it names each operation that it cannot convert; we run it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of Keras's own look at NumPy
        model.export(str(path), format=kind, verbose=False, input_signature=[pixels])


# --- Checking ---------------------------------------------------------------------------------------------------------


def run_onnx(path, batches):
    """Return what a file says of batches of pixels, list of (n, 7)."""
    session = importlib.import_module("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return [session.run(None, {name: batch})[0] for batch in batches]


def run_litert(path, batches):
    """Return what a file says of batches of pixels, list of (n, 7)."""
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


def images_to_check(record, tested, size):
    """Choose the images that exported files are checked with.

    Parameters
    ----------
    record : dict
        ``run.json``.
    tested : pandas.DataFrame
        From `skin_tl.explain.explanations.tested_images`.
    size : int
        Side of the images, in pixels.

    Returns
    -------
    pixels : numpy.ndarray
        (n_images, size, size, 3) uint8.
    real : bool
        Whether they are test images; otherwise the decoded images are not in the cache, and the pixels are random.
    """
    images = ImageSet(record["data_fingerprint"], size)
    if not images.folder.is_dir():
        return np.random.default_rng(0).integers(0, 256, (N_RANDOM, size, size, 3), dtype=np.uint8), False
    chosen = tested.groupby("dx").head(N_PER_DIAGNOSIS)["image_id"]
    return images.pixels[pd.Index(images.ids).get_indexer(chosen)], True


def into_batches(pixels):
    """Divide images into batches of the sizes `BATCHES`, list of arrays; the last one holds what is left."""
    one, few, many = BATCHES
    return [part for part in np.split(pixels, [one, *range(one + few, len(pixels), many)]) if len(part)]


def largest_difference(said, expected):
    """Return the largest absolute difference between two lists of arrays; NaN if there is any."""
    if [part.shape for part in said] != [part.shape for part in expected]:
        return np.inf
    return float(np.max([np.abs(one - other).max() for one, other in zip(said, expected, strict=True)]))


# --- The card ---------------------------------------------------------------------------------------------------------


def card_metrics(table, run, head, accuracy):
    """Choose the metrics of the card.

    Parameters
    ----------
    table : pandas.DataFrame
        ``metrics.csv``.
    run : skin_tl.apps.runs.Run
    head : dict
        From `skin_tl.explain.explanations.explained_head`.
    accuracy : float
        Of the model on its test subset, by the run's own predictions.

    Returns
    -------
    list of dict or None
        name and cells: value and interval of the model, and of the mean over seeds if the study has several.  None
        where the table has no row of the model, or was made of another state of the run.
    """
    from skin_tl.evaluation.predictions import main_arm
    from skin_tl.schema import DECISIONS

    wanted = {"dataset": "internal", "strategy": run.strategy, "backbone": run.backbone, "subgroup": "all"}
    wanted |= {name: head[name] for name in ("split_policy", "preprocessing")}
    table = main_arm(table)
    table = table[(table[list(wanted)] == pd.Series(wanted)).all(axis=1)]
    table = table.set_index(["seed", "metric", "class"])[["value", "ci_low", "ci_high"]]
    seed = str(head["seed"])
    if (seed, "accuracy", "all") not in table.index:
        return None
    if not np.isclose(table.loc[(seed, "accuracy", "all"), "value"], accuracy, rtol=0, atol=1e-9):
        return None
    seeds = [seed, "all"] if table.index.get_level_values("seed").nunique() > 2 else [seed]
    word, rows = labels("en"), []
    asked = [*((metric, "all") for metric in METRICS), *(("recall", dx) for dx in DECISIONS["malignant"])]
    for metric, dx in [*asked, *(("f1", dx) for dx in CLASSES)]:
        cells = []
        for name in seeds:
            value, low, high = table.loc[(name, metric, dx)] if (name, metric, dx) in table.index else [np.nan] * 3
            cells += [_number(value), f"{_number(low)} to {_number(high)}" if np.isfinite([low, high]).all() else "–"]
        of_one = {"f1": f"F1 of {dx}", "recall": f"sensitivity for {dx}"}
        rows.append({"name": word(f"metric.{metric}") if dx == "all" else of_one[metric], "cells": cells})
    return rows


def baseline_scores(table, head):
    """Return name, accuracy and macro_f1 of each baseline in ``metrics.csv``, list of dict."""
    from skin_tl.evaluation.predictions import main_arm
    from skin_tl.schema import BASELINES

    wanted = {"dataset": "internal", "strategy": "baseline", "split_policy": head["split_policy"], "class": "all"}
    wanted |= {"subgroup": "all", "seed": str(head["seed"])}
    table = main_arm(table)
    table = table[(table[list(wanted)] == pd.Series(wanted)).all(axis=1)].set_index(["backbone", "metric"])["value"]
    word = labels("en")
    return [
        {"name": word(f"backbone.{name}")} | {score: _number(table[name, score]) for score in ("accuracy", "macro_f1")}
        for name in BASELINES
        if (name, "macro_f1") in table.index
    ]


def _number(value):
    return f"{value:.3f}" if np.isfinite(value) else "–"


def model_card(run, exported, predictions, metrics_file):
    """Write the card of a run's exported files.

    Parameters
    ----------
    run : skin_tl.apps.runs.Run
    exported : dict of str to Exported
        By format.
    predictions : pandas.DataFrame
        The run's.
    metrics_file : pathlib.Path
        ``report/<study>/metrics.csv``, there or not.

    Returns
    -------
    str
        Markdown.

    Raises
    ------
    SkinTLError
        If the study's split is not the one that the run was trained with.
    """
    from skin_tl.data.splits import split_fingerprints
    from skin_tl.evaluation.calibration import fit_temperature
    from skin_tl.evaluation.predictions import validation_rows
    from skin_tl.explain.explanations import explained_head, tested_images
    from skin_tl.schema import PROBABILITIES

    record, folder = read_json(run.folder / "run.json"), run.study_folder
    study = check_study(record["parameters"], source=run.folder / "run.json")
    head = explained_head(study)
    splits = read_splits(folder)
    split = splits[(splits["split_policy"] == head["split_policy"]) & (splits["seed"] == head["seed"])]
    if split_fingerprints(split) != {
        head["split_policy"]: {str(head["seed"]): record["split_fingerprints"][head["split_policy"]][str(head["seed"])]}
    }:
        raise SkinTLError(f"{run.folder} was trained with another split. Run `{command_of(folder.name)}` again.")
    counts = split.groupby("subset").agg(n_images=("image_id", "nunique"), n_lesions=("lesion_id", "nunique"))
    cell = {"arm": "main", "train_fraction": 1.0} | {name: head[name] for name in ("split_policy", "preprocessing")}
    validation = validation_rows(predictions, cell).query("seed == @head['seed']")
    tested = tested_images(predictions, study)
    metrics, baselines, no_metrics = None, [], "the report of this study has not been made yet."
    if metrics_file.is_file():
        accuracy = float((tested["predicted"] == tested["dx"]).mean())
        table = pd.read_csv(metrics_file, dtype={"seed": str})
        metrics, baselines = card_metrics(table, run, head, accuracy), baseline_scores(table, head)
        no_metrics = "the report of this study is of another state of this run."
    random_weights = bool(record.get("random_weights")) and run.strategy != "from_scratch"
    first = next(iter(exported.values()))
    used = ["keras", "tensorflow", *(name for of in exported for name in PACKAGES[of])]
    values = {
        "backbone": run.backbone,
        "strategy": run.strategy,
        "study": study,
        "synthetic": study.synthetic,
        "random_weights": random_weights,
        "start": weights_note(read_json(folder / "weights.json"), run.strategy),
        "weights_fingerprint": "" if run.strategy == "from_scratch" else record["weights"].get("fingerprint", ""),
        "n_parameters": f"{record['n_parameters']:,}",
        "trained_with": record["versions"],
        "finished": run.finished,
        "commit": record["git_commit"],
        "model_fingerprint": file_fingerprint(run.folder / "model.keras"),
        "size": study.image_size,
        "transform": transform_of(run.backbone, head["preprocessing"]),
        "classes": CLASSES,
        "temperature": f"{fit_temperature(validation['dx'], validation[PROBABILITIES].to_numpy(float)):.3f}",
        "formats": {name: FORMATS[name] for name in exported},
        "split_policy": head["split_policy"],
        "seed": head["seed"],
        "subsets": [{"subset": name, **counts.loc[name]} for name in SUBSETS],
        "test_counts": tested.groupby("dx").agg(n_images=("image_id", "size"), n_lesions=("lesion_id", "nunique")),
        "metrics": metrics,
        "baselines": baselines,
        "no_metrics": no_metrics,
        "command": command_of(study.name),
        "several": len(study.seeds) if len(study.seeds) > 1 else 0,
        "views": run.strategy in TUNED and study.test_time_augmentation,
        "precision": record.get("precision", "float32"),
        "deterministic": run.strategy in TUNED and study.deterministic,
        "real": first.real,
        "n_images": first.n_images,
        "per_diagnosis": N_PER_DIAGNOSIS,
        "tolerance": TOLERANCE,
        "batches": f"{', '.join(map(str, BATCHES[:-1]))} and {BATCHES[-1]}",
        "checks": list(exported.values()),
        "checked_with": ", ".join(f"{name.replace('_', '-')} {importlib.metadata.version(name)}" for name in used),
        "word": labels("en"),
    }
    template = Path(__file__).with_name("model_card.md.j2").read_text(encoding="utf-8")
    rules = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    return rules.from_string(template).render(values)


# --- ./run_all.sh export ----------------------------------------------------------------------------------------------


def export_run(run, formats, metrics_file):
    """Export a run's model; its folder ``export/`` is written whole or not at all.

    Parameters
    ----------
    run : skin_tl.apps.runs.Run
    formats : list of str
        Of `FORMATS`; those that the folder holds already are exported again too.
    metrics_file : pathlib.Path
        ``report/<study>/metrics.csv``, there or not.

    Returns
    -------
    list of Exported

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

    from skin_tl.evaluation.predictions import read_predictions
    from skin_tl.explain.explanations import explained_head, tested_images

    record = read_json(run.folder / "run.json")
    study = check_study(record["parameters"], source=run.folder / "run.json")
    predictions = read_predictions(run.folder / "predictions.csv")
    pixels, real = images_to_check(record, tested_images(predictions, study), study.image_size)
    batches, exported = into_batches(pixels), {}
    say(f"exporting {run.backbone}, {run.strategy}: {', '.join(FORMATS[kind] for kind in kinds)} …")
    with keras.device("cpu"), write_atomically(folder) as part:  # a GPU rounds otherwise
        part.mkdir()
        whole, _, _ = read_model(run, study.image_size)
        expected = [keras.ops.convert_to_numpy(whole.predict_on_batch(batch)) for batch in batches]
        model = convertible(whole, run.backbone, explained_head(study)["preprocessing"])
        for kind in kinds:
            path, final = part / FORMATS[kind], folder / FORMATS[kind]
            remedy = "Choose another format: --format."
            if kind not in formats:  # it is there from an earlier export
                remedy = f"It was exported before: delete {final} to export the others without it."
            try:
                convert(model, kind, study.image_size, path)
                difference = largest_difference(RUN[kind](path, batches), expected)
            except Exception as error:  # converters and interpreters raise many types
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
                raise SkinTLError(
                    f"{final} could not be made and run ({reason}). Nothing was kept. {remedy}"
                ) from error
            if not difference <= TOLERANCE:
                raise SkinTLError(
                    f"{final} gives other probabilities than model.keras: they differ by up to {difference:.1e}, and "
                    f"{TOLERANCE:.0e} is allowed. Nothing was kept. {remedy}"
                )
            size = path.stat().st_size
            exported[kind] = Exported(final, size, file_fingerprint(path), difference, len(pixels), real)
        card = model_card(run, exported, predictions, metrics_file)
        (part / CARD).write_text(card, encoding="utf-8", newline="\n")
    return list(exported.values())


def runs_to_export(study=None, backbones=None, formats=tuple(FORMATS), root=ROOT):
    """Find what is to be exported, which needs no package beyond the usual ones.

    Parameters
    ----------
    study : str or pathlib.Path, optional
        See `skin_tl.apps.runs.find_study`.
    backbones : list of str, optional
        Only these.
    formats : sequence of str
        Of `FORMATS`.
    root : pathlib.Path, optional
        Folder that holds ``runs/`` and ``report/``.

    Returns
    -------
    list of skin_tl.apps.runs.Run

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
        raise SkinTLError(f"--format names no format. Formats: {', '.join(FORMATS)}.")
    for name in formats:
        if name not in FORMATS:
            raise SkinTLError(f"No format is named {name!r}. Formats: {', '.join(FORMATS)}.")
    runs = finished_runs(find_study(study, root), backbones)
    check_cache(written=False)
    return runs


def export_study(study=None, backbones=None, formats=tuple(FORMATS), root=ROOT):
    """Export the models of a study's finished runs, one run after the other.

    Parameters
    ----------
    study, backbones, formats, root
        See `runs_to_export`.

    Yields
    ------
    Exported

    Raises
    ------
    SkinTLError
        If there is nothing to export, a package is missing, or a run cannot be exported.
    """
    runs = runs_to_export(study, backbones, formats, root)
    metrics_file = Path(root) / "report" / load_study(runs[0].study_folder / "study.json").name / "metrics.csv"
    for run in runs:
        yield from export_run(run, list(formats), metrics_file)


def main(arguments=None, root=ROOT):
    """Export what a command line names; return the exit status."""
    parser = Parser("export", __doc__.split("\n\n")[0])
    parser.add_argument("--format", default=",".join(FORMATS), help="one, or several: A,B")
    parser.add_argument("--only-check", action="store_true", help=argparse.SUPPRESS)  # before packages are installed

    def run():
        options = parser.parse(arguments)
        given = (options.study, options.backbone, as_list(options.format), root)
        if options.only_check:
            runs_to_export(*given)
            return
        for exported in export_study(*given):
            show(exported)

    return run_command(run)


if __name__ == "__main__":
    sys.exit(main())
