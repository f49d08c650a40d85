"""Prediction: what the models of a finished study say of one's own images.

Takes image files and ``runs/<study>/``; gives for each image and backbone calibrated probabilities, the most similar
lesions that the model learned from, and whether the image is like any of them.  ``./run_all.sh predict`` prints it.
It is research, and no diagnosis.
"""

import argparse
import dataclasses
import functools
import json
import os
import sys
import tempfile
import textwrap
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd

from skin_tl.errors import SkinTLError
from skin_tl.files import ROOT, exit_status, printable, read_json, without_nan
from skin_tl.images import check_cache, read_image
from skin_tl.progress import bar, say
from skin_tl.study import CLASSES, TUNED, Study, command_of, load_study
from skin_tl.workflow import INTERRUPTED

NOT_A_DIAGNOSIS = "Not a diagnosis: this is research software and no medical device."

RUN_FILES = ("run.json", "model.keras", "predictions.csv")
"""What a run needs to predict with; a run that has them all is finished."""

REPORT = "its report"
"""What a study lacks all of whose runs are finished, in the words of a warning."""

LEFT_OUT = (
    "Left out, as the images of the study are not here: the nearest lesions, whether an image is unlike those that the "
    "models learned from or is one of them, and the check that the models are those whose predictions the study wrote"
)
"""What needs the images of the data set; probabilities do not."""

SEEN = {"train": "learned from", "val": "were chosen by (the validation subset)"}
"""What models have to do with an image of their training or validation subset."""

BATCH = 32
"""Images per forward pass."""

N_NEAREST = 5
"""Known lesions that are shown beside an image unless told otherwise."""

SAME_PREDICTION = 0.02
"""How far a model's probabilities may be from those that its run wrote, in the mean over the validation images: another
device or precision rounds otherwise, and another model is much farther off."""


@dataclass(frozen=True)
class Predictions:
    """What the models of a study say of some images.

    Attributes
    ----------
    study : skin_tl.study.Study
    random_weights : bool
        Whether backbones that should start from ImageNet's weights had random ones.
    table : pandas.DataFrame
        One row per image and backbone: image (the path as it was given), strategy, backbone, predicted (the most
        probable diagnosis), p_akiec … p_vasc (calibrated by the temperature that fits the validation subset),
        p_malignant (mel, bcc and akiec together), unlikeness (see `skin_tl.neighbours.unlikeness`), limit (what 99 % of
        the validation images do not exceed), unlike (bool, whether it is above the limit), and, where the run learned
        from this very image, pixel by pixel, seen (its subset, train or val) and seen_as (its image_id), else both
        empty.  Where something was left out, unlikeness and limit are NaN, unlike is False and seen empty.
    neighbours : pandas.DataFrame
        The most similar training images, one of each lesion: image, strategy, backbone, rank (from 1), image_id,
        lesion_id, dx, distance (0…2, see `skin_tl.neighbours.nearest`).
    pixels : dict
        By image, what the models saw: (size, size, 3) uint8.
    maps : dict
        By (image, strategy, backbone), what speaks for the predicted diagnosis: (size, size) float32, 0…1.  Empty
        unless asked for.
    missing : list of str
        What the study lacks to be finished: runs, as ``strategy/backbone``, or else its report.
    left_out : str
        Why neighbours, unlikeness and whether a model has seen an image are left out; empty where they are not.
    unread : dict
        By image that cannot be read and is not predicted, why.
    """

    study: Study
    random_weights: bool
    table: pd.DataFrame
    neighbours: pd.DataFrame
    pixels: dict = field(repr=False)
    maps: dict = field(repr=False)
    missing: list = field(default_factory=list)
    left_out: str = ""
    unread: dict = field(default_factory=dict)

    @property
    def images(self):
        """The images in the order in which they were given, list of str."""
        return list(self.pixels)

    def warnings(self, image=None):
        """Return sentences that belong beside the predictions of an image, or of all, list of str.

        Parameters
        ----------
        image : str, optional
            Without one, what holds for all of them.
        """
        if image is None:
            told = [NOT_A_DIAGNOSIS]
            if self.study.synthetic:
                told.append("These models learned from drawn images: what they say of a photograph means nothing.")
            if self.random_weights:
                told.append("Their backbones started from random weights, not ImageNet's.")
            if self.missing:
                again = f"{', '.join(self.missing)}. `{command_of(self.study.name)}` goes on with it."
                told.append(f"This study is not finished, it lacks {again}")
            if self.left_out:
                told.append(f"{LEFT_OUT}: {self.left_out}")
            return told
        rows, told = self.table[self.table["image"] == image], []
        if rows["unlike"].any():
            names = " and ".join(rows.loc[rows["unlike"], "backbone"].drop_duplicates())
            told.append(
                f"This image is unlike those that the models learned from (seen by {names}): rely on none of this."
            )
        for subset, image_id in rows.loc[rows["seen"] != "", ["seen", "seen_as"]].drop_duplicates().to_numpy():
            told.append(
                f"This very image, {image_id}, is among those that the models {SEEN[subset]}: what they say of it is "
                "no evidence of what they say of an image they have not seen."
            )
        return told


# --- Which study, which runs ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes
    ----------
    folder : pathlib.Path
    strategy, backbone : str
    finished : str
        When, as its record has it.
    """

    folder: Path
    strategy: str
    backbone: str
    finished: str

    @property
    def study_folder(self):
        """Folder of the study that it belongs to."""
        return self.folder.parent.parent


def load_keras():
    """Import Keras and its backend, and keep from the terminal what their libraries say of the processor meanwhile.

    If the import fails, it is said after all.
    """
    if "keras" in sys.modules:
        return
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            from skin_tl.backbones import import_keras

            import_keras()
        except BaseException:
            said.seek(0)
            os.write(terminal, said.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


def _is_finished(run):
    return all((run / name).is_file() for name in RUN_FILES)


def _missing_runs(folder, study):
    """List the runs of a study that are not finished, as ``strategy/backbone``."""
    names = [f"{strategy}/{backbone}" for strategy in study.strategies for backbone in study.backbones]
    return [name for name in names if not _is_finished(folder / name)]


def _lacking(folder, study):
    """List what a study lacks to be finished: runs, as ``strategy/backbone``, or else its report.

    A report that is older than a run is that of an earlier start.
    """
    missing = _missing_runs(folder, study)
    report = folder.parent.parent / "report" / folder.name / "report.html"
    if missing or not report.is_file():
        return missing or [REPORT]
    try:
        last = datetime.fromisoformat(max(run.finished for run in finished_runs(folder))).timestamp()
    except ValueError:
        return [REPORT]
    return [] if report.stat().st_mtime >= int(last) else [REPORT]


def _steps_from_finished(folder):
    """Tell how far a study is from its end: 0 finished, 1 without its report, 2 without runs or not to be read."""
    try:
        lacking = _lacking(folder, load_study(folder / "study.json"))
    except SkinTLError:
        return 2
    return 0 if not lacking else 1 if lacking == [REPORT] else 2


def finished_runs(folder, backbones=None):
    """List the finished runs of a study.

    Parameters
    ----------
    folder : pathlib.Path
        The study's folder below ``runs/``.
    backbones : list of str, optional
        Only these.

    Returns
    -------
    list of Run
        In the study's order.

    Raises
    ------
    SkinTLError
        If there is none, or none of a backbone that is asked for; the message lists those that there are.
    """
    study = load_study(folder / "study.json")
    runs = []
    for strategy in study.strategies:
        for backbone in study.backbones:
            run = folder / strategy / backbone
            if _is_finished(run):
                runs.append(Run(run, strategy, backbone, str(read_json(run / "run.json").get("finished", ""))))
    if not runs:
        raise SkinTLError(f"The study {study.name!r} has no finished run. Run `{command_of(study.name)}` first.")
    there = list(dict.fromkeys(run.backbone for run in runs))
    for name in backbones or ():
        if name not in there:
            near = [known for known in there if known.lower() == name.lower()]
            hint = f", did you mean {near[0]!r}?" if near else "."
            raise SkinTLError(
                f"The study {study.name!r} has no finished run of {name!r}{hint} It has: {', '.join(there)}."
            )
    return [run for run in runs if not backbones or run.backbone in backbones]


def find_study(study=None, root=ROOT):
    """Find the runs of a study.

    Parameters
    ----------
    study : str or pathlib.Path, optional
        Its name, or the path of its ``study.json`` or YAML file; otherwise the finished study, all of whose runs and
        whose report are there, whose last run finished last.  Only if none is finished, one that lacks its report, and
        only then one that lacks runs.
    root : pathlib.Path, optional
        Folder that holds ``runs/``.

    Returns
    -------
    pathlib.Path
        The study's folder below ``runs/``.

    Raises
    ------
    SkinTLError
        If it has no runs; the message lists the studies that have.
    """
    runs, study = Path(root) / "runs", None if study is None else str(study)
    if study is not None and Path(study).name == "study.json":
        return Path(study).resolve().parent
    if study is not None and Path(study).suffix in (".yaml", ".yml"):
        study = load_study(study).name
    finished = {}
    for record in runs.glob("*/*/*/run.json"):
        if _is_finished(record.parent):
            name, when = record.parts[-4], str(read_json(record).get("finished", ""))
            finished[name] = max(when, finished.get(name, ""))
    there = f"Studies with finished runs: {', '.join(sorted(finished))}." if finished else "No study has finished runs."
    if study is None:
        if not finished:
            raise SkinTLError(f"{there} Run one first: `./run_all.sh` (the demo), or `./run_all.sh STUDY`.")
        study = max(finished, key=lambda name: (-_steps_from_finished(runs / name), finished[name], name))
    elif study not in finished:
        known = (Path(root) / "studies" / f"{study}.yaml").is_file() or (runs / study / "study.json").is_file()
        what = f"The study {study!r} has no finished run" if known else f"No study is named {study!r}"
        first = f" Run it first: `{command_of(study)}`." if known else ""
        raise SkinTLError(f"{what}.{first} {there}")
    return runs / study


# --- Reading ----------------------------------------------------------------------------------------------------------


def read_files(paths, size, base=None):
    """Read image files as the backbones see them.

    Parameters
    ----------
    paths : list of str or pathlib.Path
    size : int
        Side of the square that each is squashed to, in pixels.
    base : pathlib.Path, optional
        Folder that relative paths start from.

    Returns
    -------
    pixels : dict
        By path (as given, str), (size, size, 3) uint8.
    unread : dict
        By path, why it cannot be read.
    """
    pixels, unread = {}, {}
    for path in dict.fromkeys(map(str, paths)):
        try:
            pixels[path] = read_image(Path(base or "") / path, size)
        except SkinTLError as error:
            unread[path] = str(error)
    return pixels, unread


def read_model(run, size, name="model.keras"):
    """Read a run's model, or one of its networks below ``models/``.

    Returns
    -------
    whole, body, head : keras.Model
        From pixels to probabilities; its two parts, from pixels to features and from features to probabilities.

    Raises
    ------
    SkinTLError
        If it cannot be read or is not of that form; the message names the versions.
    """
    from skin_tl.backbones import features_model, head_layers, import_keras

    keras = import_keras()

    file = run.folder / name
    try:
        whole = keras.models.load_model(file, compile=False)
        shaped = whole.input_shape[1:] == (size, size, 3) and whole.output_shape[1:] == (len(CLASSES),)
        if not shaped or not any(isinstance(layer, keras.Model) for layer in whole.layers):
            raise ValueError(f"it takes {whole.input_shape[1:]}, gives {whole.output_shape[1:]}")
        body = features_model(whole)
        given = keras.Input(body.output_shape[1:])
        head = keras.Model(given, functools.reduce(lambda values, layer: layer(values), head_layers(whole), given))
    except Exception as error:  # zipfile, h5py and Keras raise many types for a wrong file
        from skin_tl.runs import versions

        written, here = read_json(run.folder / "run.json").get("versions", {}), versions()
        told = [
            " and ".join(f"{name} {of.get(name.lower(), 'unknown')}" for name in ("Keras", "skin-tl"))
            for of in (written, here)
        ]
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise SkinTLError(
            f"{file} cannot be used ({reason}). It was written by {told[0]}; here are {told[1]}. "
            f"Delete {run.folder / 'run.json'} and run `{command_of(run.study_folder.name)}`: it is trained anew."
        ) from None
    return whole, body, head


# --- Predicting -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Predictor:
    """A run's model with all that its predictions need.

    Attributes
    ----------
    whole, body, head : keras.Model
        From pixels to probabilities; from pixels to features; from features to probabilities.
    temperature : float
        See `skin_tl.evaluation.fit_temperature`.
    views : int
        Flips and rotations of an image over which probabilities are averaged, 1 or 8.
    random_weights : bool
    left_out : str
        Why all that follows is None: the images of the data set are not here.  Empty where they are.
    known : skin_tl.neighbours.Rows
        Features of the training images.
    lesions : pandas.DataFrame
        Of each row of `known`: image_id, lesion_id, dx.
    pixels : numpy.ndarray
        (n_images, size, size, 3) uint8 of the whole data set, memory-mapped.
    subsets : pandas.Series
        The subset of each of `pixels`, by image_id.
    limit : float
        See `skin_tl.neighbours.unlikeness_limit`.
    """

    whole: object
    body: object
    head: object
    temperature: float
    views: int
    random_weights: bool
    left_out: str = ""
    known: object = None
    lesions: pd.DataFrame | None = None
    pixels: object = None
    subsets: pd.Series | None = None
    limit: float | None = None

    def __call__(self, pixels, n_nearest):
        """Predict (n_images, size, size, 3) uint8.

        Returns
        -------
        probabilities : numpy.ndarray
            (n_images, 7), calibrated.
        unlikeness : numpy.ndarray
            (n_images,); NaN where it is left out.
        nearest : list of pandas.DataFrame
            For each image the `n_nearest` most similar training images of different lesions, with their distance; none
            where they are left out.
        """
        from skin_tl.evaluation import scale_temperature
        from skin_tl.neighbours import LIKENESS_NEIGHBOUR, enough_images, nearest, nearest_lesions, unlikeness

        features = by_batches(self.body, pixels, BATCH)
        chances = (
            by_batches(self.head, features, BATCH) if self.views == 1 else _over_views(self.whole, pixels, self.views)
        )
        probabilities = scale_temperature(chances.astype(float), self.temperature)
        if self.left_out:
            nothing = pd.DataFrame({"image_id": [], "lesion_id": [], "dx": [], "distance": []})
            return probabilities, np.full(len(pixels), np.nan), [nothing] * len(pixels)
        n = min(max(enough_images(self.lesions["lesion_id"], n_nearest), LIKENESS_NEIGHBOUR), len(self.known))
        distances, rows = nearest(features, self.known, n)
        tables = [
            nearest_lesions(self.lesions, row, distance, n_nearest)
            for row, distance in zip(rows, distances, strict=True)
        ]
        return probabilities, unlikeness(distances).astype(float), tables

    def seen(self, picture):
        """Tell whether a picture, (size, size, 3) uint8, is one of the training images, or else of the validation ones.

        Returns
        -------
        tuple of str
            Its subset (train or val) and its image_id; both empty for any other picture.
        """
        from skin_tl.neighbours import same_picture

        if self.left_out:
            return "", ""
        same = self.subsets.iloc[same_picture(picture, self.pixels)]
        of_subset = [(subset, image_id) for subset in SEEN for image_id in same.index[same == subset]]
        return of_subset[0] if of_subset else ("", "")


def by_batches(model, values, batch):
    """Return what a model gives for all rows of an array or of `skin_tl.neighbours.Rows`, `batch` at a time."""
    from skin_tl.backbones import import_keras

    keras = import_keras()
    parts = [model.predict_on_batch(np.asarray(values[i : i + batch])) for i in range(0, len(values), batch)]
    return np.concatenate([keras.ops.convert_to_numpy(part) for part in parts])


def _over_views(whole, pixels, views):
    from skin_tl.tuning import predict_rows

    return predict_rows(whole, pixels, np.arange(len(pixels)), min(BATCH, len(pixels)), views)


@functools.lru_cache(maxsize=8)
def load_predictor(run):
    """Read a run's model and what its predictions need, or find it read.

    The images of the data set and their features come from the cache.  Where it lacks them they are computed, which is
    said; where they cannot be, what needs them is left out.

    Parameters
    ----------
    run : Run

    Returns
    -------
    Predictor

    Raises
    ------
    SkinTLError
        If the run's data set or split is another by now, its model cannot be read, or does not give the predictions
        that the run wrote.
    """
    from skin_tl.evaluation import PROBABILITIES, fit_temperature, read_predictions, validation_rows
    from skin_tl.explanations import explained_head
    from skin_tl.runs import read_splits
    from skin_tl.splits import split_fingerprints
    from skin_tl.study import check_study

    folder, record = run.study_folder, read_json(run.folder / "run.json")
    again = f"Run `{command_of(folder.name)}` again."
    study = check_study(record.get("parameters", {}), source=run.folder / "run.json")
    policy, preprocessing, seed = explained_head(study.model_dump()).values()
    splits, about = read_splits(folder), read_json(folder / "dataset" / "images.json")
    split = splits[(splits["split_policy"] == policy) & (splits["seed"] == seed)]
    drawn = split_fingerprints(split).get(policy, {}).get(str(seed))
    if (about["key"], drawn) != (record["data_fingerprint"], record["split_fingerprints"][policy][str(seed)]):
        raise SkinTLError(f"{run.folder} was trained with another state of the data set or its split. {again}")

    whole, body, head = read_model(run, about["image_size"])
    cell = {"arm": "main", "split_policy": policy, "preprocessing": preprocessing, "train_fraction": 1.0}
    written = validation_rows(read_predictions(run.folder / "predictions.csv"), cell)
    written = written[written["seed"] == seed].set_index("image_id")
    predictor = Predictor(
        whole,
        body,
        head,
        temperature=fit_temperature(written["dx"], written[PROBABILITIES].to_numpy(float)),
        views=8 if run.strategy in TUNED and study.test_time_augmentation else 1,
        random_weights=bool(record.get("random_weights")) and run.strategy != "from_scratch",
    )
    try:
        images = _find_images(folder, about)
    except SkinTLError as error:
        return dataclasses.replace(predictor, left_out=str(error))
    return _with_images(predictor, run, images, preprocessing, split, written[PROBABILITIES], again)


def _find_images(folder, about):
    """Return the decoded images of a study, or decode them again, which is said; nothing is downloaded.

    Raises
    ------
    SkinTLError
        If they cannot be had.
    """
    from skin_tl.images import ImageSet, cache_folder
    from skin_tl.runs import read_images

    images = ImageSet(about["key"], about["image_size"])
    if images.folder.is_dir():
        return images
    set_here, kept = os.environ.get("SKIN_TL_HAM10000"), cache_folder() / "downloads" / "HAM10000"
    hint = _cache_hint(folder, Path("images") / images.key)
    if not about["synthetic"] and not set_here and not kept.is_dir():
        raise SkinTLError(
            f"{cache_folder()} has no images of the study {folder.name}, and SKIN_TL_HAM10000 is not set. "
            f"{hint}, or SKIN_TL_HAM10000 to the folder of the data set."
        )
    how = "drawn and decoded" if about["synthetic"] else "decoded"
    say(
        f"note: {cache_folder()} has no images of the study {folder.name}: all {about['n_images']:,} are {how} again "
        f"and kept there. {hint} to avoid it."
    )
    return read_images(folder)


def _cache_hint(folder, kept):
    """Say which cache to name: the one that the study was made with, if it still has what is looked for (`kept`)."""
    about = read_json(folder / "dataset" / "images.json")
    place = (folder.parent.parent / about.get("folder", "")).resolve().parent.parent
    return f"Set SKIN_TL_CACHE to {place if (place / kept).exists() else 'the cache that the study was made with'}"


def _with_images(predictor, run, images, preprocessing, split, written, again):
    """Return a predictor with all that needs the images of the data set; check that its model is the run's.

    Parameters
    ----------
    predictor : Predictor
    run : Run
    images : skin_tl.images.ImageSet
    preprocessing : {'native', 'unit'}
    split : pandas.DataFrame
    written : pandas.DataFrame
        The probabilities of the validation images that the run wrote, by image_id.
    again : str
        A sentence that says how to start again.
    """
    from skin_tl.features import extract, features_key
    from skin_tl.images import cache_folder
    from skin_tl.neighbours import Rows, unlikeness_limit
    from skin_tl.runs import read_metadata_table

    ids = np.array(images.ids)
    kept = Path("features") / features_key(images, predictor.body)
    if not (cache_folder() / kept / "about.json").is_file():
        say(
            f"note: {cache_folder()} has no features by the network of {run.strategy}/{run.backbone}, by which near "
            f"lesions are found: all {len(ids):,} images pass through it once, which may take minutes; they are kept."
            + ("" if run.strategy in TUNED else f" {_cache_hint(run.study_folder, kept)} to avoid it.")
        )
    features, _ = extract(images, run.backbone, preprocessing, predictor.body)
    subsets = split.set_index("image_id")["subset"].reindex(ids)
    rows = {subset: np.flatnonzero(subsets == subset) for subset in SEEN}
    known, validation = Rows(features, rows["train"]), Rows(features, rows["val"])
    if predictor.views == 1:
        given = by_batches(predictor.head, validation, 1024)
    else:  # a few images tell
        given = _over_views(predictor.whole, images.pixels[rows["val"][:4]], predictor.views)
    expected = written.reindex(ids[rows["val"]]).to_numpy(float)
    if not np.abs(given - expected[: len(given)]).max(1).mean() < SAME_PREDICTION:
        raise SkinTLError(
            f"{run.folder / 'model.keras'} does not give the probabilities of {run.folder / 'predictions.csv'}: one of "
            f"them is of another version. Delete {run.folder / 'run.json'}. {again}"
        )
    lesions = read_metadata_table(run.study_folder).set_index("image_id").loc[ids[rows["train"]], ["lesion_id", "dx"]]
    return dataclasses.replace(
        predictor,
        known=known,
        lesions=lesions.reset_index(),
        pixels=images.pixels,
        subsets=subsets,
        limit=unlikeness_limit(validation, known),
    )


def predict_images(
    paths, study=None, backbones=None, n_nearest=N_NEAREST, explain=False, root=ROOT, base=None, watch=iter
):
    """Predict image files with every finished run of a study.

    Parameters
    ----------
    paths : list of str or pathlib.Path
    study : str or pathlib.Path, optional
        Its name or the path of its ``study.json``; otherwise see `find_study`.
    backbones : list of str, optional
        Only these.
    n_nearest : int
        Known lesions to look for beside each image.
    explain : bool
        Whether to compute what speaks for each prediction (`skin_tl.gradcam`).
    root : pathlib.Path, optional
        Folder that holds ``runs/``.
    base : pathlib.Path, optional
        Folder that relative paths start from.
    watch : callable, optional
        Gives the runs one by one, such as a progress bar.

    Returns
    -------
    Predictions

    Raises
    ------
    SkinTLError
        If no image can be read, the study is unknown or has no finished run, or a run cannot be used.
    """
    folder = find_study(study, root)
    runs = finished_runs(folder, backbones)
    check_cache(written=False)
    settings = load_study(folder / "study.json")
    pixels, unread = read_files(paths, settings.image_size, base)
    if unread and not pixels:
        raise SkinTLError(f"{in_short(unread)}. Nothing was predicted.")
    if not pixels:
        raise SkinTLError("No image is named. Name at least one image file.")

    load_keras()
    from skin_tl.decisions import DECISIONS
    from skin_tl.evaluation import PROBABILITIES

    stacked, names, rows, neighbours, maps, random = np.stack(list(pixels.values())), list(pixels), [], [], {}, False
    left_out = ""
    malignant = [CLASSES.index(name) for name in DECISIONS["malignant"]]
    for run in watch(runs):
        predictor, of_run = load_predictor(run), {"strategy": run.strategy, "backbone": run.backbone}
        probabilities, unlikeness, nearest = predictor(stacked, n_nearest)
        random |= predictor.random_weights
        left_out = left_out or predictor.left_out
        table = pd.DataFrame({"image": names, **of_run, "predicted": np.array(CLASSES)[probabilities.argmax(1)]})
        table[PROBABILITIES] = probabilities
        table["p_malignant"] = probabilities[:, malignant].sum(1)
        limit = np.nan if predictor.limit is None else predictor.limit
        table = table.assign(unlikeness=unlikeness, limit=limit, unlike=unlikeness > limit)
        table[["seen", "seen_as"]] = [predictor.seen(picture) for picture in stacked]
        rows.append(table)
        for name, found in zip(names, nearest, strict=True):
            neighbours.append(found.assign(image=name, **of_run, rank=range(1, len(found) + 1)))
        if explain:
            from skin_tl.gradcam import gradcam

            shown = gradcam(predictor.whole, stacked, probabilities.argmax(1))
            maps |= {(name, *of_run.values()): part for name, part in zip(names, shown, strict=True)}
    order = {name: place for place, name in enumerate(names)}
    table, neighbours = (
        pd.concat(parts).sort_values("image", key=lambda part: part.map(order), kind="stable", ignore_index=True)
        for parts in (rows, neighbours)
    )
    columns = ["image", "strategy", "backbone", "rank", "image_id", "lesion_id", "dx", "distance"]
    missing = _lacking(folder, settings)
    return Predictions(settings, random, table, neighbours[columns], pixels, maps, missing, left_out, unread)


# --- ./run_all.sh predict ---------------------------------------------------------------------------------------------


RUN_OF = ["image", "strategy", "backbone"]


def _nearest_of(predictions):
    """Return the known lesions beside each image and run, dict of frames."""
    return dict(list(predictions.neighbours.groupby(RUN_OF, sort=False)))


def as_json(predictions):
    """Return predictions as JSON text."""
    from skin_tl.evaluation import PROBABILITIES

    found = _nearest_of(predictions)
    images = []
    for image in predictions.images:
        said = []
        for row in predictions.table[predictions.table["image"] == image].to_dict("records"):
            of_run = (image, row["strategy"], row["backbone"])
            nearest = found[of_run].drop(columns=RUN_OF).to_dict("records") if of_run in found else None
            if nearest is None:
                row |= dict.fromkeys(("unlikeness", "limit", "unlike"))
            chances = {dx: row[name] for dx, name in zip(CLASSES, PROBABILITIES, strict=True)}
            rest = ("strategy", "backbone", "predicted", "p_malignant", "unlikeness", "limit", "unlike")
            seen = {"subset": row["seen"], "image_id": row["seen_as"]} if row["seen"] else None
            said.append(
                {name: row[name] for name in rest} | {"seen": seen, "probabilities": chances, "nearest": nearest}
            )
        images.append({"image": printable(image), "warnings": predictions.warnings(image), "predictions": said})
    content = {
        "study": predictions.study.name,
        "warnings": predictions.warnings(),
        "left_out": predictions.left_out or None,
        "images": images,
        "errors": [{"image": printable(image), "error": told} for image, told in predictions.unread.items()],
    }
    return json.dumps(without_nan(content), indent=2, allow_nan=False)  # ASCII, which every terminal has


def as_text(predictions, width=80):
    """Return predictions as tables of plain text, at most `width` columns wide but for the name of an image."""
    from skin_tl.evaluation import PROBABILITIES
    from skin_tl.texts import NO_BREAK_SPACE

    def wrapped(text, first, rest):
        lines = textwrap.wrap(text, width, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)
        return [line.replace(NO_BREAK_SPACE, " ") for line in lines]

    nearest = _nearest_of(predictions)
    lines = wrapped(f"study {predictions.study.name}: {predictions.study.title}", "", "  ")
    for told in predictions.warnings():
        lines += wrapped(told, "", "")
    header = f"  {'backbone':14} {'says':5}" + "".join(f"{dx:>6}" for dx in CLASSES) + f"{'malig':>7}{'unlike':>8}"
    for image in predictions.images:
        rows = predictions.table[predictions.table["image"] == image]
        lines += ["", printable(image)]
        for told in predictions.warnings(image):
            lines += wrapped(f"WARNING: {told}", "  ", "  ")
        for strategy, of_strategy in rows.groupby("strategy", sort=False):
            if len(predictions.study.strategies) > 1:
                lines.append(f"  {strategy}")
            lines.append(header)
            for row in of_strategy.to_dict("records"):
                numbers = "".join(f"{100 * row[name]:6.1f}" for name in PROBABILITIES)
                share = row["unlikeness"] / max(row["limit"], 1e-9)  # a dead network sees no difference at all
                unlike = "–" if np.isnan(share) else f"{min(share, 9999):.2f}"
                numbers += f"{100 * row['p_malignant']:7.1f}{unlike:>8}"
                lines.append(f"  {row['backbone']:14} {row['predicted']:5}{numbers}{'!' if row['unlike'] else ''}")
            for row in of_strategy.to_dict("records"):
                if (image, strategy, row["backbone"]) not in nearest:
                    continue  # left out, as is said above
                near = nearest[image, strategy, row["backbone"]].to_dict("records")
                told = ([of["image_id"], of["dx"], f"{round(of['distance'], 4):#.2g}"] for of in near)
                known = map(NO_BREAK_SPACE.join, told)
                lines += wrapped(f"nearest by {row['backbone']}: {', '.join(known)}", "  ", "    ")
    lines.append("")
    legend = "Calibrated probabilities in %; malig: malignant or in situ/premalignant (mel, bcc, akiec)."
    if not predictions.left_out:
        legend += (
            " unlike: distance to the training images, as a share of its limit; above 1, the image is unlike them. "
            "nearest: lesions of these, diagnosis, distance."
        )
    lines += wrapped(legend, "", "")
    return "\n".join(lines)


class Parser(argparse.ArgumentParser):
    """The options of a command that takes finished runs; says what is wrong as everything else does.

    Parameters
    ----------
    command : str
        As in ``./run_all.sh COMMAND``.
    """

    def __init__(self, command, description):
        super().__init__(f"./run_all.sh {command}", description=description)
        self.command = command
        self.add_argument("--study")
        self.add_argument("--backbone", help="one, or several: A,B")
        self.add_argument("--from", dest="base", type=Path, help=argparse.SUPPRESS)  # where the person stands

    def error(self, message):
        raise SkinTLError(f"{self.command}: {message}. See `./run_all.sh --help`.")

    def parse(self, arguments):
        """Return the options; study is one that `find_study` understands, and backbone a list, empty for all."""
        options = self.parse_args(arguments)
        if options.study and Path(options.study).suffix in (".yaml", ".yml"):
            options.study = Path(options.base or "") / options.study
        options.backbone = as_list(options.backbone)
        return options


def as_list(text):
    """Return the parts of ``A,B`` without the empty ones, list of str."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def run_command(run):
    """Call `run`, which is what a command does; return the exit status of its process."""
    try:
        return exit_status(run)
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return INTERRUPTED


def in_short(unread):
    """Name images that cannot be read, and why, in one line."""
    rest = f"; and {len(unread) - 5} more" if len(unread) > 5 else ""
    return "; ".join(list(unread.values())[:5]) + rest


def show(text):
    """Print a text; where nobody reads on, as behind ``| head``, what is printed from now on goes nowhere."""
    encoding = sys.stdout.encoding or "utf-8"  # which may lack characters of a name
    try:
        print(str(text).encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(arguments=None, root=ROOT):
    """Predict the images that a command line names; return the exit status."""
    parser = Parser("predict", __doc__.split("\n\n")[0])
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--json", action="store_true")

    def run():
        options = parser.parse(arguments)
        watch = functools.partial(bar, what="asking the models", unit="model") if sys.stderr.isatty() else iter
        given = (options.images, options.study, options.backbone)
        predictions = predict_images(*given, root=root, base=options.base, watch=watch)
        show(as_json(predictions) if options.json else as_text(predictions))
        if predictions.unread:
            n_given = len(predictions.unread) + len(predictions.images)
            told = "; ".join(predictions.unread.values())
            raise SkinTLError(f"{len(predictions.unread)} of {n_given} images cannot be read: {told}.")

    return run_command(run)


if __name__ == "__main__":
    sys.exit(main())
