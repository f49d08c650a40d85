"""Prediction: the answers of finished runs for images of one's own, with neighbours and saliency maps.

Takes image files and a study; gives `Predictions`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from skin_tl.apps.predictor import SEEN, load_predictor
from skin_tl.apps.runs import LEFT_OUT, Run, find_study, finished_runs, lacking_runs, load_keras
from skin_tl.data.images import check_cache, read_image
from skin_tl.errors import SkinTLError
from skin_tl.explain.explanations import explained_head
from skin_tl.files import ROOT
from skin_tl.schema import CLASSES, DECISIONS, PROBABILITIES
from skin_tl.study import Study, command_of, load_study

NOT_A_DIAGNOSIS = "Not a diagnosis: this is research software and no medical device."

N_NEAREST = 5
"""Known lesions that are shown beside an image unless told otherwise."""

RUN_OF = ["image", "strategy", "backbone"]
"""Columns that name the answer of one run for one image."""


@dataclass(frozen=True)
class Predictions:
    """The predictions of some images by the models of a study.

    Attributes
    ----------
    study
    random_weights
        Whether backbones that should start from ImageNet's weights had random ones.
    table
        One row per image and backbone: image (the path as it was given), strategy, backbone, predicted (the most
        probable diagnosis), p_akiec … p_vasc (calibrated by the temperature that fits the validation subset),
        p_malignant (mel, bcc and akiec together), ood_score (see `skin_tl.explain.neighbours.ood_score`), limit (what
        99 % of the validation images do not exceed), unlike (bool, whether it is above the limit), and, where the run
        learned from this very image, pixel by pixel, seen (its subset, train or val) and seen_as (its image_id), else
        both empty.  Where something was left out, ood_score and limit are NaN, unlike is False and seen empty.
    neighbours
        The most similar training images, one of each lesion: image, strategy, backbone, rank (from 1), image_id,
        lesion_id, dx, distance (0…2, see `skin_tl.explain.neighbours.nearest`).
    pixels
        By image, what the models saw: (size, size, 3) uint8.
    maps
        By (image, strategy, backbone), what speaks for the predicted diagnosis: (size, size) float32, 0…1.  Empty
        unless asked for.
    missing
        What the study lacks to be finished: runs, as ``strategy/backbone``, or else its report.
    left_out
        Why neighbours, ood_score and whether a model has seen an image are left out; empty where they are not.
    unread
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
    def images(self) -> list[str]:
        """The images in the order in which they were given."""
        return list(self.pixels)

    @property
    def head(self) -> dict[str, str | int]:
        """What the head in each ``model.keras`` was trained with: split_policy, preprocessing and seed."""
        return explained_head(self.study)

    def warnings(self, image: str | None = None) -> list[str]:
        """Return sentences that belong beside the predictions of an image, or of all.

        Parameters
        ----------
        image
            Without one, what holds for all of them.
        """
        if image is None:
            told = [NOT_A_DIAGNOSIS]
            if self.study.synthetic:
                told.append(
                    "These models were trained on synthetic images: their predictions of photographs mean nothing."
                )
            if self.random_weights:
                told.append("Their backbones have random weights and are not pretrained on ImageNet.")
            if self.missing:
                lacks = f"it lacks {', '.join(self.missing)}"
                told.append(f"This study is not finished: {lacks}. Run `{command_of(self.study.name)}` to continue it.")
            if self.left_out:
                told.append(f"{LEFT_OUT}: {self.left_out}")
            return told
        rows, told = self.table[self.table["image"] == image], []
        if rows["unlike"].any():
            names = " and ".join(rows.loc[rows["unlike"], "backbone"].drop_duplicates())
            told.append(
                f"This image is unlike the training images, by the features of {names}. Do not rely on its predictions."
            )
        for subset, image_id in rows.loc[rows["seen"] != "", ["seen", "seen_as"]].drop_duplicates().to_numpy():
            told.append(
                f"This very image, {image_id}, is in the {SEEN[subset]} set of these models, so its predictions are "
                "optimistically biased."
            )
        return told


def read_files(
    paths: Iterable[str | Path], size: int, base: Path | None = None
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read image files as the inputs of backbones.

    Parameters
    ----------
    paths
    size
        Side of the square that each is squashed to, in pixels.
    base
        Folder that relative paths start from.

    Returns
    -------
    pixels : dict
        By path (as given), (size, size, 3) uint8.
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


def predict_images(
    paths: Iterable[str | Path],
    study: str | Path | None = None,
    backbones: Sequence[str] | None = None,
    n_nearest: int = N_NEAREST,
    explain: bool = False,
    root: Path = ROOT,
    base: Path | None = None,
    watch: Callable[[list[Run]], Iterable[Run]] = iter,
) -> Predictions:
    """Predict image files with every finished run of a study.

    Parameters
    ----------
    paths
    study
        Its name or the path of its ``study.json``; otherwise see `find_study`.
    backbones
        Only these.
    n_nearest
        Known lesions to show.
    explain
        Whether to compute what speaks for each prediction (`skin_tl.explain.gradcam`).
    root, base
        Folders that hold ``runs/``, and that relative paths start from.
    watch
        Gives the runs one by one, such as a progress bar.

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
    if not pixels:
        none = f"{in_short(unread)}. Nothing was predicted. Name at least one image that can be read." if unread else ""
        raise SkinTLError(none or "No image is named. Name at least one image file.")
    load_keras()
    found = [_predict(run, pixels, n_nearest, explain) for run in watch(runs)]
    order = {name: place for place, name in enumerate(pixels)}
    table, neighbours = (
        pd.concat(parts).sort_values("image", key=lambda part: part.map(order), kind="stable", ignore_index=True)
        for parts in ([one.table for one in found], [one.neighbours for one in found])
    )
    return Predictions(
        settings,
        any(one.random_weights for one in found),
        table,
        neighbours[[*RUN_OF, "rank", "image_id", "lesion_id", "dx", "distance"]],
        pixels,
        {key: heat for one in found for key, heat in one.maps.items()},
        missing=lacking_runs(folder, settings),
        left_out=next((one.left_out for one in found if one.left_out), ""),
        unread=unread,
    )


def _predict(run: Run, pixels: dict[str, np.ndarray], n_nearest: int, explain: bool) -> Predictions:
    """Predict images with one run."""
    predictor, of_run = load_predictor(run), {"strategy": run.strategy, "backbone": run.backbone}
    stacked = np.stack(list(pixels.values()))
    probabilities, ood_score, nearest = predictor(stacked, n_nearest)
    table = pd.DataFrame({"image": list(pixels), **of_run, "predicted": np.array(CLASSES)[probabilities.argmax(1)]})
    table[PROBABILITIES] = probabilities
    table["p_malignant"] = probabilities[:, [CLASSES.index(name) for name in DECISIONS["malignant"]]].sum(1)
    table = table.assign(ood_score=ood_score, limit=predictor.limit, unlike=ood_score > predictor.limit)
    table[["seen", "seen_as"]] = [predictor.seen(picture) for picture in stacked]
    neighbours = [
        known.assign(image=name, **of_run, rank=range(1, len(known) + 1))
        for name, known in zip(pixels, nearest, strict=True)
    ]
    maps = {}
    if explain:
        from skin_tl.explain.gradcam import gradcam

        shown = gradcam(predictor.whole, stacked, probabilities.argmax(1))
        maps = {(name, *of_run.values()): part for name, part in zip(pixels, shown, strict=True)}
    given = (run.study, predictor.random_weights, table, pd.concat(neighbours), pixels, maps)
    return Predictions(*given, left_out=predictor.left_out)


def in_short(unread: dict[str, str]) -> str:
    """Name images that cannot be read, and why, in one line."""
    rest = f"; and {len(unread) - 5} more" if len(unread) > 5 else ""
    return "; ".join(list(unread.values())[:5]) + rest
