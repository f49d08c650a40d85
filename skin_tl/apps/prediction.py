"""Prediction: the answers of finished runs for images of one's own, with neighbours and saliency maps.

Takes image files and a study; gives `Predictions`.
"""

import dataclasses
import functools
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from skin_tl.apps.runs import LEFT_OUT, find_study, finished_runs, lacking_runs, load_keras, read_model
from skin_tl.data.images import check_cache, read_image
from skin_tl.errors import SkinTLError
from skin_tl.files import ROOT, read_json
from skin_tl.progress import say
from skin_tl.schema import CLASSES, TUNED
from skin_tl.study import Study, command_of, load_study

NOT_A_DIAGNOSIS = "Not a diagnosis: this is research software and no medical device."

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
        p_malignant (mel, bcc and akiec together), ood_score (see `skin_tl.explain.neighbours.ood_score`), limit (what
        99 % of the validation images do not exceed), unlike (bool, whether it is above the limit), and, where the run
        learned from this very image, pixel by pixel, seen (its subset, train or val) and seen_as (its image_id), else
        both empty.  Where something was left out, ood_score and limit are NaN, unlike is False and seen empty.
    neighbours : pandas.DataFrame
        The most similar training images, one of each lesion: image, strategy, backbone, rank (from 1), image_id,
        lesion_id, dx, distance (0…2, see `skin_tl.explain.neighbours.nearest`).
    pixels : dict
        By image, what the models saw: (size, size, 3) uint8.
    maps : dict
        By (image, strategy, backbone), what speaks for the predicted diagnosis: (size, size) float32, 0…1.  Empty
        unless asked for.
    missing : list of str
        What the study lacks to be finished: runs, as ``strategy/backbone``, or else its report.
    left_out : str
        Why neighbours, ood_score and whether a model has seen an image are left out; empty where they are not.
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


# --- Predicting -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Predictor:
    """A run's model with all that its predictions need.

    Attributes
    ----------
    whole, body, head : keras.Model
        From pixels to probabilities; from pixels to features; from features to probabilities.
    temperature : float
        See `skin_tl.evaluation.calibration.fit_temperature`.
    views : int
        Flips and rotations of an image over which probabilities are averaged, 1 or 8.
    random_weights : bool
    left_out : str
        Why all that follows is None: the images of the data set are not here.  Empty where they are.
    known : skin_tl.explain.neighbours.Rows
        Features of the training images.
    lesions : pandas.DataFrame
        Of each row of `known`: image_id, lesion_id, dx.
    pixels : numpy.ndarray
        (n_images, size, size, 3) uint8 of the whole data set, memory-mapped.
    subsets : pandas.Series
        The subset of each of `pixels`, by image_id.
    limit : float
        See `skin_tl.explain.neighbours.ood_limit`.
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
        ood_score : numpy.ndarray
            (n_images,); NaN where it is left out.
        nearest : list of pandas.DataFrame
            For each image the `n_nearest` most similar training images of different lesions, with their distance; none
            where they are left out.
        """
        from skin_tl.evaluation.calibration import scale_temperature
        from skin_tl.explain.neighbours import OOD_NEIGHBOUR, enough_images, nearest, nearest_lesions, ood_score

        features = by_batches(self.body, pixels, BATCH)
        chances = (
            by_batches(self.head, features, BATCH) if self.views == 1 else _over_views(self.whole, pixels, self.views)
        )
        probabilities = scale_temperature(chances.astype(float), self.temperature)
        if self.left_out:
            nothing = pd.DataFrame({"image_id": [], "lesion_id": [], "dx": [], "distance": []})
            return probabilities, np.full(len(pixels), np.nan), [nothing] * len(pixels)
        n = min(max(enough_images(self.lesions["lesion_id"], n_nearest), OOD_NEIGHBOUR), len(self.known))
        distances, rows = nearest(features, self.known, n)
        tables = [
            nearest_lesions(self.lesions, row, distance, n_nearest)
            for row, distance in zip(rows, distances, strict=True)
        ]
        return probabilities, ood_score(distances).astype(float), tables

    def seen(self, picture):
        """Tell whether a picture, (size, size, 3) uint8, is one of the training images, or else of the validation ones.

        Returns
        -------
        tuple of str
            Its subset (train or val) and its image_id; both empty for any other picture.
        """
        from skin_tl.explain.neighbours import same_picture

        if self.left_out:
            return "", ""
        same = self.subsets.iloc[same_picture(picture, self.pixels)]
        of_subset = [(subset, image_id) for subset in SEEN for image_id in same.index[same == subset]]
        return of_subset[0] if of_subset else ("", "")


def by_batches(model, values, batch):
    """Return what a model gives for all rows of an array or of `skin_tl.explain.neighbours.Rows`, `batch` at a time."""
    from skin_tl.models.backbones import import_keras

    keras = import_keras()
    parts = [model.predict_on_batch(np.asarray(values[i : i + batch])) for i in range(0, len(values), batch)]
    return np.concatenate([keras.ops.convert_to_numpy(part) for part in parts])


def _over_views(whole, pixels, views):
    from skin_tl.models.tuning import predict_rows

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
    from skin_tl.data.preparation import read_splits
    from skin_tl.data.splits import split_fingerprints
    from skin_tl.evaluation.calibration import fit_temperature
    from skin_tl.evaluation.predictions import read_predictions, validation_rows
    from skin_tl.explain.explanations import explained_head
    from skin_tl.schema import PROBABILITIES
    from skin_tl.study import check_study

    folder, record = run.study_folder, read_json(run.folder / "run.json")
    again = f"Run `{command_of(folder.name)}` again."
    study = check_study(record.get("parameters", {}), source=run.folder / "run.json")
    policy, preprocessing, seed = explained_head(study).values()
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
    from skin_tl.data.images import ImageSet, cache_folder
    from skin_tl.data.preparation import read_images

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
    """Say which cache to name: the one that the study was made with, if it still holds what is missing (`kept`)."""
    about = read_json(folder / "dataset" / "images.json")
    place = (folder.parent.parent / about.get("folder", "")).resolve().parent.parent
    return f"Set SKIN_TL_CACHE to {place if (place / kept).exists() else 'the cache that the study was made with'}"


def _with_images(predictor, run, images, preprocessing, split, written, again):
    """Return a predictor with all that needs the images of the data set; check that its model is the run's.

    Parameters
    ----------
    predictor : Predictor
    run : Run
    images : skin_tl.data.images.ImageSet
    preprocessing : {'native', 'unit'}
    split : pandas.DataFrame
    written : pandas.DataFrame
        The probabilities of the validation images that the run wrote, by image_id.
    again : str
        A sentence that says how to start again.
    """
    from skin_tl.data.images import cache_folder
    from skin_tl.data.preparation import read_metadata_table
    from skin_tl.explain.neighbours import Rows, ood_limit
    from skin_tl.models.features import extract, features_key

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
        limit=ood_limit(validation, known),
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
        Whether to compute what speaks for each prediction (`skin_tl.explain.gradcam`).
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
    from skin_tl.schema import DECISIONS, PROBABILITIES

    stacked, names, rows, neighbours, maps, random = np.stack(list(pixels.values())), list(pixels), [], [], {}, False
    left_out = ""
    malignant = [CLASSES.index(name) for name in DECISIONS["malignant"]]
    for run in watch(runs):
        predictor, of_run = load_predictor(run), {"strategy": run.strategy, "backbone": run.backbone}
        probabilities, ood_score, nearest = predictor(stacked, n_nearest)
        random |= predictor.random_weights
        left_out = left_out or predictor.left_out
        table = pd.DataFrame({"image": names, **of_run, "predicted": np.array(CLASSES)[probabilities.argmax(1)]})
        table[PROBABILITIES] = probabilities
        table["p_malignant"] = probabilities[:, malignant].sum(1)
        limit = np.nan if predictor.limit is None else predictor.limit
        table = table.assign(ood_score=ood_score, limit=limit, unlike=ood_score > limit)
        table[["seen", "seen_as"]] = [predictor.seen(picture) for picture in stacked]
        rows.append(table)
        for name, found in zip(names, nearest, strict=True):
            neighbours.append(found.assign(image=name, **of_run, rank=range(1, len(found) + 1)))
        if explain:
            from skin_tl.explain.gradcam import gradcam

            shown = gradcam(predictor.whole, stacked, probabilities.argmax(1))
            maps |= {(name, *of_run.values()): part for name, part in zip(names, shown, strict=True)}
    order = {name: place for place, name in enumerate(names)}
    table, neighbours = (
        pd.concat(parts).sort_values("image", key=lambda part: part.map(order), kind="stable", ignore_index=True)
        for parts in (rows, neighbours)
    )
    columns = ["image", "strategy", "backbone", "rank", "image_id", "lesion_id", "dx", "distance"]
    missing = lacking_runs(folder, settings)
    return Predictions(settings, random, table, neighbours[columns], pixels, maps, missing, left_out, unread)


def in_short(unread):
    """Name images that cannot be read, and why, in one line."""
    rest = f"; and {len(unread) - 5} more" if len(unread) > 5 else ""
    return "; ".join(list(unread.values())[:5]) + rest
