"""Exploring finished runs: what the notebook 4_explore asks of them.

Takes the folder of a study's runs (``runs/<study>``, or ``runs/interactive/<study>`` of runs made by hand); gives plain
tables: the images that one head was tested on with what is told of each, its confusion matrix, the images of one cell,
siblings, the nearest training lesions, and what a threshold on the probability of melanoma finds and misses.

Nothing here draws or waits for a click; `skin_tl.apps.panels` does.
"""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from skin_tl.data import preparation
from skin_tl.data.images import ImageSet
from skin_tl.errors import SkinTLError
from skin_tl.evaluation.calibration import image_log_loss
from skin_tl.evaluation.decisions import choose_threshold, lesion_scores
from skin_tl.evaluation.metric_list import COMPARED
from skin_tl.evaluation.metrics import point_metrics
from skin_tl.evaluation.predictions import class_codes, main_arm, read_predictions
from skin_tl.files import ROOT, read_json
from skin_tl.models import runs
from skin_tl.schema import CLASSES, PROBABILITIES, kind_of
from skin_tl.study import Study, check_study, command_of, load_study, save_study

CHOICE = ("strategy", "backbone", "split_policy", "preprocessing", "seed")
"""Columns that name one head; what is chosen is a dict with these keys."""

SORTS = {
    "loss": ("loss", False),
    "confident": ("confidence", False),
    "doubtful": ("confidence", True),
    "disagreement": ("disagreement", False),
}
"""Orders of images: the column that it goes by, and whether the smallest comes first."""

QUICK = {"backbones": ["MobileNetV2", "ResNet50"], "leakage": False, "other_splits": 0}
"""What a quick run changes in a study: two backbones to compare, no experiments."""


@dataclass(frozen=True)
class Runs:
    """The finished runs of one study, read for looking at.

    Attributes
    ----------
    folder : pathlib.Path
    study : skin_tl.study.Study
    metadata : pandas.DataFrame
        Indexed by image_id.
    splits : pandas.DataFrame
    predictions : pandas.DataFrame
        Those of all runs on the study's own images (arm ``main``, all of the training subset), with the columns
        strategy and backbone.
    """

    folder: Path
    study: Study
    metadata: pd.DataFrame
    splits: pd.DataFrame
    predictions: pd.DataFrame

    @property
    def images(self):
        """The decoded images, `skin_tl.data.images.ImageSet`."""
        return preparation.read_images(self.folder)

    @property
    def random_weights(self):
        """Whether the backbones never saw a photograph."""
        return read_json(self.folder / "weights.json")["source"] == "random"


# Finding and reading runs ---------------------------------------------------------------------------------------


def finished_studies(root=ROOT):
    """Return the folders of studies that have a finished run, by name; those made by hand as ``interactive/<name>``."""
    folders = {path.name: path for path in sorted((Path(root) / "runs").glob("*"))}
    folders |= {f"interactive/{path.name}": path for path in sorted((Path(root) / "runs" / "interactive").glob("*"))}
    return {name: folder for name, folder in folders.items() if _run_files(folder)}


def _run_files(folder):
    """Return the predictions.csv of each run below a study's folder, once its splits are there too."""
    if not (folder / "dataset" / "splits.csv").is_file():
        return []
    return sorted(file for file in folder.glob("*/*/predictions.csv") if not file.parent.name.startswith("."))


def study_folder(study, output="runs/interactive", root=ROOT):
    """Return the folder with the finished runs of a study.

    Parameters
    ----------
    study : str
        A name below ``runs/``, or the path of a ``study.json``.
    output : str or pathlib.Path
        Folder of runs made by hand, which is looked at next.
    root : pathlib.Path, optional
        Folder that holds ``runs/``.

    Returns
    -------
    pathlib.Path or None
        None where there is no finished run.
    """
    given = Path(study)
    if given.name == "study.json":
        candidates = [given.resolve().parent]
    else:
        candidates = [Path(root) / "runs" / study, Path(root) / output / given.stem]
    return next((folder for folder in candidates if _run_files(folder)), None)


def open_runs(folder):
    """Read the finished runs of a study.

    Parameters
    ----------
    folder : pathlib.Path
        ``runs/<study>`` or ``runs/interactive/<study>``.

    Returns
    -------
    Runs

    Raises
    ------
    SkinTLError
        If there is no finished run, or a file of one is not what it should be.
    """
    folder, command = Path(folder), command_of(Path(folder).name)
    files = _run_files(folder)
    if not files:
        raise SkinTLError(f"{folder} holds no finished run. Run `{command}` first.")
    study = _study_of(folder, files)
    wanted = [(strategy, name) for strategy in study.strategies for name in study.backbones] + study.pseudo_runs
    # A narrowed study leaves the runs of others where they are.
    files = [file for file in files if (file.parent.parent.name, file.parent.name) in wanted]
    files.sort(key=lambda file: wanted.index((file.parent.parent.name, file.parent.name)))
    splits, tables = preparation.read_splits(folder), []
    for file in files:
        table = main_arm(read_predictions(file, splits, command))
        names = {"strategy": file.parent.parent.name, "backbone": file.parent.name}
        tables.append(table[table["dataset"] == "internal"].assign(**names))
    metadata = preparation.read_metadata_table(folder).set_index("image_id")
    return Runs(folder, study, metadata, splits, pd.concat(tables, ignore_index=True))


def _study_of(folder, files):
    """Return the study of some runs: study.json, which runs made by hand get from what they note of themselves."""
    if folder.parent.name != "interactive":
        return load_study(folder / "study.json")
    records = [file.with_name("run.json") for file in files if file.with_name("run.json").is_file()]
    if not records:
        raise SkinTLError(f"{folder} holds no run.json. Delete the folder, and run notebooks/2_train.ipynb again.")
    about = [read_json(record) for record in records]
    strategies, backbones = (list(dict.fromkeys(one[key] for one in about)) for key in ("strategy", "backbone"))
    # Experiments are not shown, and some strategies have none.
    found = {"strategies": strategies, "backbones": backbones, "leakage": False, "other_splits": 0}
    study = check_study(about[0]["parameters"], found, source=records[0])
    study = study.model_copy(update={"overrides": about[0]["parameters"].get("overrides", [])})
    save_study(study, folder / "study.json")
    return study


def quick_run(study, output="runs/interactive", root=ROOT, changes=QUICK):
    """Train two backbones of a study on drawn images, for a first look; where there are finished runs, do nothing.

    Parameters
    ----------
    study : str
        A name below ``studies/``, or the path of a study's file.
    output : str or pathlib.Path
        The folder of runs to write into.
    root : pathlib.Path, optional
        Folder that holds ``runs/``.
    changes : dict
        What differs from the study.

    Returns
    -------
    pathlib.Path
        Folder of the study's finished runs.

    Raises
    ------
    SkinTLError
        If the study is one of photographs: it takes too long to be started by looking at it.
    """
    if (folder := study_folder(study, output, root)) is not None:
        return folder
    asked = load_study(study)
    if not asked.synthetic:
        raise SkinTLError(f"The study {asked.name!r} has no finished run. Run `./run_all.sh {study}` first.")
    from skin_tl.models.training import train_run

    asked = load_study(study, changes)
    folder = Path(root) / output / asked.name
    data = runs.prepare(asked, folder)
    save_study(asked, folder / "study.json")
    for strategy in asked.strategies:
        for backbone in asked.backbones:
            train_run(asked, strategy, backbone, data, folder / strategy / backbone)
    return folder


# One head -------------------------------------------------------------------------------------------------------


def options(predictions, column, **chosen):
    """Return the values of a column, in their order, among the rows that agree with what is chosen already."""
    for name, value in chosen.items():
        predictions = predictions[predictions[name] == value]
    return predictions[column].drop_duplicates().tolist()


def of_head(predictions, choice, subset="test"):
    """Return the rows of one head.

    Parameters
    ----------
    predictions : pandas.DataFrame
        Of `Runs`.
    choice : dict
        A value for each of `CHOICE`.
    subset : {'test', 'val'}
    """
    rows = predictions[predictions["subset"] == subset]
    for column in CHOICE:
        rows = rows[rows[column] == choice[column]]
    return rows


def head_table(predictions, choice, subset="test"):
    """Return what a head says of each image of a subset, and how far it is from the truth and from other backbones.

    Parameters
    ----------
    predictions : pandas.DataFrame
        Of `Runs`.
    choice : dict
        A value for each of `CHOICE`.
    subset : {'test', 'val'}

    Returns
    -------
    pandas.DataFrame
        Indexed by image_id, sorted: lesion_id, dx, `PROBABILITIES`, predicted, confidence (the largest probability),
        loss (cross-entropy of the true diagnosis, in nats) and disagreement (see `disagreement`; NaN where there are
        not two backbones).
    """
    rows = of_head(predictions, choice, subset).set_index("image_id").sort_index()
    if rows.empty:
        shown = ", ".join(str(choice[column]) for column in CHOICE)
        raise SkinTLError(f"There are no predictions of {shown} on the subset {subset!r}. Choose another head.")
    probability = rows[PROBABILITIES].to_numpy(float)
    others = predictions[predictions["backbone"].map(kind_of) == "backbone"]
    tables = [
        of_head(others, choice | {"backbone": backbone}, subset).set_index("image_id")
        for backbone in options(others, "backbone", strategy=choice["strategy"])
    ]
    return rows[["lesion_id", "dx", *PROBABILITIES]].assign(
        predicted=np.array(CLASSES)[probability.argmax(1)],
        confidence=probability.max(1),
        loss=image_log_loss(class_codes(rows["dx"]), probability),
        disagreement=disagreement([table for table in tables if len(table)]).reindex(rows.index),
    )


def disagreement(tables):
    """Tell how far backbones disagree about each image: the Jensen–Shannon divergence of their probabilities.

    Parameters
    ----------
    tables : list of pandas.DataFrame
        For each backbone, indexed by image_id, the columns `PROBABILITIES`.

    Returns
    -------
    pandas.Series
        By image_id, for the images that all have, in 0…1: 0 where all say the same, 1 where each is sure of another
        diagnosis.  Empty where there are not two backbones.
    """
    if len(tables) < 2:
        return pd.Series(dtype=float)
    ids = sorted(set.intersection(*(set(table.index) for table in tables)))
    each = np.stack([table.loc[ids, PROBABILITIES].to_numpy(float) for table in tables])
    divergence = _entropy(each.mean(0)) - _entropy(each).mean(0)
    return pd.Series(np.clip(divergence / np.log(min(len(tables), len(CLASSES))), 0, 1), index=ids)


def _entropy(probability):
    return -(probability * np.log(np.where(probability > 0, probability, 1))).sum(-1)


def confusion(rows):
    """Count images by true (rows) and predicted (columns) diagnosis, (7, 7) table of int in the order of `CLASSES`."""
    counts = pd.crosstab(rows["dx"], rows["predicted"])
    return counts.reindex(index=CLASSES, columns=CLASSES, fill_value=0)


def worst_cell(counts):
    """Return the (true, predicted) diagnoses of the commonest error, or of the commonest hit where there is none."""
    values = counts.to_numpy().copy()
    if np.trace(values) < values.sum():
        np.fill_diagonal(values, 0)
    row, column = np.unravel_index(values.argmax(), values.shape)
    return CLASSES[row], CLASSES[column]


def in_cell(rows, dx, predicted, order="loss"):
    """Return the images of one cell of the confusion matrix.

    Parameters
    ----------
    rows : pandas.DataFrame
        From `told`.
    dx, predicted : str
    order : str
        A key of `SORTS`; equal values are sorted by image_id, unknown ones come last.
    """
    column, ascending = SORTS[order]
    cell = rows[(rows["dx"] == dx) & (rows["predicted"] == predicted)].sort_index()
    return cell.sort_values(column, ascending=ascending, kind="stable", na_position="last")


def head_scores(rows):
    """Return the metrics `COMPARED` of the images of a head, as `point_metrics` does."""
    values = point_metrics(rows.reset_index(), groups=("confusion",))
    return {name: values[name, "all"] for name in COMPARED}


# One image ------------------------------------------------------------------------------------------------------


def siblings(found, image_id, choice):
    """Return the other images of an image's lesion and the subset that each is in, in a head's split.

    Parameters
    ----------
    found : Runs
    image_id : str
    choice : dict
        Its split_policy and seed are used.

    Returns
    -------
    pandas.DataFrame
        Columns image_id and subset, sorted by image_id.
    """
    split = subsets(found.splits, choice)
    lesion = found.metadata["lesion_id"]
    others = sorted(set(lesion.index[lesion == lesion[image_id]]) - {image_id})
    return pd.DataFrame({"image_id": others, "subset": split.reindex(others).tolist()})


def subsets(splits, choice):
    """Return the subset of each image (pandas.Series by image_id) in a head's split."""
    split = splits[(splits["split_policy"] == choice["split_policy"]) & (splits["seed"] == choice["seed"])]
    return split.set_index("image_id")["subset"]


def compare(predictions, image_id, choice, backbones):
    """Return what several backbones say of one image under the same strategy, split, scaling and seed.

    Returns
    -------
    pandas.DataFrame
        Probabilities, a row per diagnosis in the order of `CLASSES`, a column per backbone that predicted it.
    """
    table = {}
    for backbone in backbones:
        rows = of_head(predictions, choice | {"backbone": backbone}).set_index("image_id")
        if image_id in rows.index:
            table[backbone] = rows.loc[image_id, PROBABILITIES].to_numpy(float)
    return pd.DataFrame(table, index=list(CLASSES))


def features_of_run(found, choice):
    """Return the features that a run's backbone gives for all images of the study, (n_images, n_features) float32.

    Computed where the cache has not got them.  Where the strategy trains the backbone too, each split, scaling and seed
    has a network of its own, and they are those of the chosen one.

    Raises
    ------
    SkinTLError
        If the chosen run has no backbone.
    """
    from skin_tl.models.backbones import build_backbone
    from skin_tl.models.features import extract

    backbone, preprocessing = choice["backbone"], choice["preprocessing"]
    if kind_of(backbone) != "backbone":
        raise SkinTLError(f"{backbone!r} has no features of its own. Choose a backbone to find near lesions by.")
    run = found.folder / choice["strategy"] / backbone
    if choice["strategy"] == "feature_extraction":
        weights = read_json(run / "run.json")["weights"]
        model = build_backbone(backbone, preprocessing, found.study.image_size, weights)
    else:
        from skin_tl.apps.runs import Run, read_model
        from skin_tl.models.heads import head_file

        network = f"models/{head_file('main', choice['split_policy'], preprocessing, choice['seed'])}"
        model = read_model(Run(run, choice["strategy"], backbone, ""), found.study.image_size, network)[1]
    return extract(found.images, backbone, preprocessing, model)[0]


def nearest_lesions(found, features, image_id, choice, n_lesions=6):
    """Find the training lesions that look most like an image to a backbone.

    Parameters
    ----------
    found : Runs
    features : numpy.ndarray
        (n_images, n_features) float32, in the order of the study's images, for example from `features_of_run`.
    image_id : str
    choice : dict
        Its split_policy and seed say what training is.
    n_lesions : int

    Returns
    -------
    pandas.DataFrame
        The nearest first: image_id (the nearest image of each lesion), lesion_id, dx, distance and same_lesion (bool; a
        split by image may have trained on the lesion itself).
    """
    from skin_tl.explain import neighbours

    ids = pd.Index(found.images.ids)
    split = subsets(found.splits, choice).reindex(ids)
    train = np.flatnonzero((split == "train").to_numpy() & (ids != image_id))
    known = found.metadata.loc[ids[train], ["lesion_id", "dx"]].reset_index(names="image_id")
    wanted = neighbours.enough_images(known["lesion_id"], n_lesions)
    mine, reference = features[[ids.get_loc(image_id)]], neighbours.Rows(features, train)
    distances, rows = neighbours.nearest(mine, reference, wanted)
    table = neighbours.nearest_lesions(known, rows[0], distances[0], n_lesions).reset_index(drop=True)
    return table.assign(same_lesion=table["lesion_id"] == found.metadata.loc[image_id, "lesion_id"])


# A decision -----------------------------------------------------------------------------------------------------


def lesions_of(predictions, choice, subset="test"):
    """Return the lesions of a head's subset with their probabilities, see `lesion_scores`."""
    return lesion_scores(of_head(predictions, choice, subset))


def threshold_of_validation(predictions, choice, decision="melanoma"):
    """Return the threshold that the validation subset chooses for a decision, NaN where there is none to ask."""
    lesions = lesions_of(predictions, choice, "val")
    return choose_threshold(lesions[decision], lesions[f"{decision}_score"]) if len(lesions) else np.nan


def decide(lesions, threshold, decision="melanoma"):
    """Tell what a threshold on the probability finds, misses and costs; a lesion is flagged from the threshold on.

    Parameters
    ----------
    lesions : pandas.DataFrame
        From `lesions_of`.
    threshold : float
        In 0…1.
    decision : str
        A key of `skin_tl.schema.DECISIONS`.

    Returns
    -------
    dict
        found, missed, flagged_others and cleared (int, lesions); sensitivity, specificity and precision (0…1, NaN
        where there is nothing to divide by); and `by_diagnosis`, a pandas.DataFrame of flagged and cleared lesions with
        a row per diagnosis in the order of `CLASSES`.
    """
    wanted, flagged = lesions[decision].to_numpy(bool), lesions[f"{decision}_score"].to_numpy() >= threshold
    counts = {
        "found": int((wanted & flagged).sum()),
        "missed": int((wanted & ~flagged).sum()),
        "flagged_others": int((~wanted & flagged).sum()),
        "cleared": int((~wanted & ~flagged).sum()),
    }
    table = pd.crosstab(lesions["dx"], np.where(flagged, "flagged", "cleared"))
    return counts | {
        "sensitivity": _share(counts["found"], counts["missed"]),
        "specificity": _share(counts["cleared"], counts["flagged_others"]),
        "precision": _share(counts["found"], counts["flagged_others"]),
        "by_diagnosis": table.reindex(index=CLASSES, columns=["flagged", "cleared"], fill_value=0),
    }


def _share(part, rest):
    return part / (part + rest) if part + rest else np.nan


# Pictures -------------------------------------------------------------------------------------------------------


def png(pixels):
    """Return an image, (height, width, 3) uint8, as a data URI of a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels)).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


class Pictures:
    """The decoded images by their id.

    Parameters
    ----------
    images : skin_tl.data.images.ImageSet
    """

    def __init__(self, images: ImageSet):
        self._rows = {image_id: row for row, image_id in enumerate(images.ids)}
        self._pixels = images.pixels

    def __getitem__(self, image_id):
        """Return the pixels of an image, (size, size, 3) uint8."""
        return self._pixels[self._rows[image_id]]
