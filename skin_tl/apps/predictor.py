"""Predictor: a finished run's model with all that its predictions of other images need.

Takes a `skin_tl.apps.runs.Run`; gives calibrated probabilities, distances to the training images and the nearest of
their lesions.
"""

import dataclasses
import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from skin_tl.apps.runs import Run, read_model
from skin_tl.data.images import ImageSet, cache_folder
from skin_tl.errors import SkinTLError
from skin_tl.evaluation.predictions import read_predictions
from skin_tl.explain import neighbours
from skin_tl.explain.explanations import explained_head
from skin_tl.files import read_json
from skin_tl.progress import say
from skin_tl.schema import PROBABILITIES, TUNED
from skin_tl.study import command_of

if TYPE_CHECKING:
    import keras

SEEN = {"train": "training", "val": "validation"}
"""The subsets whose images a model has used, in words."""

BATCH = 32
"""Images per forward pass."""

SAME_PREDICTION = 0.02
"""How far a model's probabilities may be from those that its run wrote, in the mean over the validation images: another
device or precision rounds otherwise, and another model is much farther off."""


@dataclass(frozen=True)
class Known:
    """What a predictor knows of the images of its data set.

    Attributes
    ----------
    features
        Of the training images.
    lesions
        Of each row of `features`: image_id, lesion_id, dx.
    pixels
        (n_images, size, size, 3) uint8 of the whole data set, memory-mapped.
    subsets
        The subset of each of `pixels`, by image_id.
    """

    features: neighbours.Rows
    lesions: pd.DataFrame
    pixels: np.ndarray
    subsets: pd.Series


@dataclass(frozen=True)
class Predictor:
    """A run's model with all that its predictions need.

    Attributes
    ----------
    whole, body, head
        From pixels to probabilities; from pixels to features; from features to probabilities.
    temperature
        See `skin_tl.evaluation.calibration.fit_temperature`.
    views
        Flips and rotations of an image over which probabilities are averaged, see `skin_tl.study.Study.n_views`.
    random_weights
    left_out
        Why `known` is None: the images of the data set are not here.  Empty where they are.
    known
    limit
        See `skin_tl.explain.neighbours.ood_limit`; NaN without `known`.
    """

    whole: "keras.Model"
    body: "keras.Model"
    head: "keras.Model"
    temperature: float
    views: int
    random_weights: bool
    left_out: str = ""
    known: Known | None = None
    limit: float = np.nan

    def __call__(self, pixels: np.ndarray, n_nearest: int) -> tuple[np.ndarray, np.ndarray, list[pd.DataFrame]]:
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

        features = by_batches(self.body, pixels, BATCH)
        chances = by_batches(self.head, features, BATCH) if self.views == 1 else self.over_views(pixels)
        probabilities = scale_temperature(chances.astype(float), self.temperature)
        if self.known is None:
            nothing = pd.DataFrame({"image_id": [], "lesion_id": [], "dx": [], "distance": []})
            return probabilities, np.full(len(pixels), np.nan), [nothing] * len(pixels)
        lesions, reference = self.known.lesions, self.known.features
        wanted = max(neighbours.enough_images(lesions["lesion_id"], n_nearest), neighbours.OOD_NEIGHBOUR)
        distances, rows = neighbours.nearest(features, reference, min(wanted, len(reference)))
        tables = [
            neighbours.nearest_lesions(lesions, row, distance, n_nearest)
            for row, distance in zip(rows, distances, strict=True)
        ]
        return probabilities, neighbours.ood_score(distances).astype(float), tables

    def over_views(self, pixels: np.ndarray) -> np.ndarray:
        """Return probabilities, (n_images, 7), averaged over the views of each image."""
        from skin_tl.models.tuning import predict_rows

        return predict_rows(self.whole, pixels, np.arange(len(pixels)), min(BATCH, len(pixels)), self.views)

    def seen(self, picture: np.ndarray) -> tuple[str, str]:
        """Tell whether a picture, (size, size, 3) uint8, is one of the training images, or else of the validation ones.

        Returns
        -------
        tuple of str
            Its subset (train or val) and its image_id; both empty for any other picture.
        """
        if self.known is None:
            return "", ""
        same = self.known.subsets.iloc[neighbours.same_picture(picture, self.known.pixels)]
        of_subset = [(subset, image_id) for subset in SEEN for image_id in same.index[same == subset]]
        return of_subset[0] if of_subset else ("", "")


def by_batches(model: "keras.Model", values: Any, batch: int) -> np.ndarray:
    """Return what a model gives for all rows of an array or of `skin_tl.explain.neighbours.Rows`, `batch` at a time."""
    from skin_tl.models.backbones import import_keras

    keras = import_keras()
    parts = [model.predict_on_batch(np.asarray(values[i : i + batch])) for i in range(0, len(values), batch)]
    return np.concatenate([keras.ops.convert_to_numpy(part) for part in parts])


@functools.lru_cache(maxsize=8)
def load_predictor(run: Run) -> Predictor:
    """Read a run's model and what its predictions need, or find it read.

    The images of the data set and their features come from the cache.  Where it lacks them they are computed, which is
    said; where they cannot be, what needs them is left out.

    Raises
    ------
    SkinTLError
        If the run's data set or split is another by now, its model cannot be read, or does not give the predictions
        that the run wrote.
    """
    from skin_tl.evaluation.calibration import fit_temperature

    about = read_json(run.study_folder / "dataset" / "images.json")
    if about["key"] != run.record["data_fingerprint"]:
        again = command_of(run.study_folder.name)
        raise SkinTLError(f"{run.folder} was trained with another state of the data set. Run `{again}` again.")
    split = run.split()
    whole, body, head = read_model(run, about["image_size"])
    written = run.validation(read_predictions(run.folder / "predictions.csv")).set_index("image_id")
    predictor = Predictor(
        whole,
        body,
        head,
        temperature=fit_temperature(written["dx"], written[PROBABILITIES].to_numpy(float)),
        views=run.study.n_views(run.strategy),
        random_weights=run.random_weights,
    )
    try:
        images = _find_images(run.study_folder, about)
    except SkinTLError as error:
        return dataclasses.replace(predictor, left_out=str(error))
    return _with_images(predictor, run, images, split, written[PROBABILITIES])


def _find_images(folder: Path, about: dict) -> ImageSet:
    """Return the decoded images of a study, or decode them again, which is said; nothing is downloaded.

    Raises
    ------
    SkinTLError
        If they cannot be had.
    """
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
        f"note: {cache_folder()} has no images of the study {folder.name}. All {about['n_images']:,} are {how} again "
        f"and kept there. {hint} to avoid it."
    )
    return read_images(folder)


def _cache_hint(folder: Path, kept: Path) -> str:
    """Say which cache to name: the one that the study was made with, if it still holds what is missing (`kept`)."""
    about = read_json(folder / "dataset" / "images.json")
    place = (folder.parent.parent / about.get("folder", "")).resolve().parent.parent
    return f"Set SKIN_TL_CACHE to {place if (place / kept).exists() else 'the cache that the study was made with'}"


def _with_images(
    predictor: Predictor, run: Run, images: ImageSet, split: pd.DataFrame, written: pd.DataFrame
) -> Predictor:
    """Return a predictor with all that needs the images of the data set; check that its model is the run's.

    `written` holds the probabilities of the validation images that the run wrote, by image_id.
    """
    from skin_tl.data.preparation import read_metadata_table
    from skin_tl.models.features import extract, features_key

    ids = np.array(images.ids)
    kept = Path("features") / features_key(images, predictor.body)
    if not (cache_folder() / kept / "about.json").is_file():
        say(
            f"note: {cache_folder()} has no features of {run.strategy}/{run.backbone}, which find the nearest lesions. "
            f"All {len(ids):,} images pass through the network once, which may take minutes. The features are kept."
            + ("" if run.strategy in TUNED else f" {_cache_hint(run.study_folder, kept)} to avoid it.")
        )
    features, _ = extract(images, run.backbone, explained_head(run.study)["preprocessing"], predictor.body)
    subsets = split.set_index("image_id")["subset"].reindex(ids)
    rows = {subset: np.flatnonzero(subsets == subset) for subset in SEEN}
    training, validation = (neighbours.Rows(features, rows[subset]) for subset in SEEN)
    if predictor.views == 1:
        given = by_batches(predictor.head, validation, 1024)
    else:  # a few images tell
        given = predictor.over_views(images.pixels[rows["val"][:4]])
    expected = written.reindex(ids[rows["val"]]).to_numpy(float)
    if not np.abs(given - expected[: len(given)]).max(1).mean() < SAME_PREDICTION:
        raise SkinTLError(
            f"{run.folder / 'model.keras'} does not give the probabilities of {run.folder / 'predictions.csv'}: one of "
            f"them is of another version. Delete {run.folder / 'run.json'}. "
            f"Run `{command_of(run.study_folder.name)}` again."
        )
    lesions = read_metadata_table(run.study_folder).set_index("image_id").loc[ids[rows["train"]], ["lesion_id", "dx"]]
    known = Known(training, lesions.reset_index(), images.pixels, subsets)
    return dataclasses.replace(predictor, known=known, limit=neighbours.ood_limit(validation, training))
