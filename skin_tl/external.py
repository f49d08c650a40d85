"""The external test set: the ISIC 2018 Task 3 test images, which no choice ever sees.

Takes the folder that ``SKIN_TL_ISIC2018`` names (or downloads it, from the release of HAM10000) and a study's trained
heads; gives ``external/`` below the study's runs, and in each run ``predictions_isic2018.csv``.

Its labels are published in two forms, and both are read: a table with HAM10000's columns, and the challenge's own with
one column of 0 and 1 for each diagnosis, which tells nothing of lesions or patients.
"""

import itertools

import numpy as np
import pandas as pd

from skin_tl.dataset import (
    COLUMNS,
    DX_TYPES,
    TABLES,
    Dataset,
    check_metadata,
    find_images,
    find_metadata,
    find_release,
    images_of,
    read_table,
)
from skin_tl.duplicates import RATIO, descriptors, nearest_of_other_lesions
from skin_tl.errors import SkinTLError
from skin_tl.files import write_csv
from skin_tl.images import decode
from skin_tl.progress import say
from skin_tl.runs import open_part, read_images, read_metadata_table, write_images
from skin_tl.study import CLASSES, TUNED

LABELS = TABLES["ISIC2018"]
FILES = (LABELS, "ISIC2018_Task3_Test_Images.zip")

NOT_RELEASED = "ISIC_0035068"
"""An image that tables of the release may list although its archive lacks it; it alone may be missing.

Source: the challenge's scoring code (ImageMarkup/isic-challenge-scoring), which leaves it out of its scores."""

DUPLICATE_COLUMNS = ["image_id", "nearest_image_id", "ratio"]


# --- Reading --------------------------------------------------------------------------------------------------------


def open_isic2018():
    """Find (or download) and check the ISIC 2018 test set.

    Returns
    -------
    skin_tl.dataset.Dataset

    Raises
    ------
    SkinTLError
        If it cannot be had, or its table or images are not what they should be.
    """
    folder, source = find_release("ISIC2018", files=FILES, check=read_labels)
    table = find_metadata(folder, LABELS)
    labels = read_labels(table)
    if NOT_RELEASED in set(labels["image_id"]) and NOT_RELEASED not in find_images(folder):
        labels = labels[labels["image_id"] != NOT_RELEASED].reset_index(drop=True)
        say(f"  note: {NOT_RELEASED} is left out: the release has its label and not its picture.")
    return Dataset(labels, images_of(labels, folder, table), source, synthetic=False)


def read_labels(path):
    """Read and check the labels in either form.

    Parameters
    ----------
    path : str or pathlib.Path

    Returns
    -------
    pandas.DataFrame
        Columns `COLUMNS`, sorted by image_id.  What the table does not tell is ``unknown``, an age missing; where it
        does not tell lesions, each image counts as one of its own, under its own id.

    Raises
    ------
    SkinTLError
        If it is empty, has the columns of neither form, or a value is not allowed; the message names rows.
    """
    table = read_table(path)
    classes = list(CLASSES)
    if {"image", *classes} <= set(table):
        table = table.assign(image_id=table["image"], dx=_decoded(table[classes], path))
        table = table.reindex(columns=COLUMNS, fill_value="")
        table["lesion_id"] = table["lesion_id"].where(table["lesion_id"] != "", table["image_id"])
    elif "dx" not in table:
        raise SkinTLError(
            f"{path} has the columns {', '.join(table)}. Expected those of HAM10000 ({', '.join(COLUMNS)}) or of the "
            f"challenge (image, {', '.join(classes).upper()})."
        )
    return check_metadata(table.replace({"dx_type": {"": "unknown"}}), path, (*DX_TYPES, "unknown"))


def _decoded(marks, path):
    """Return the diagnosis of each row of 0 and 1, str; refuse rows that do not have one."""
    values = marks.apply(pd.to_numeric, errors="coerce")
    n_marked = (values == 1).sum(axis=1)
    for wrong, what in (
        (~values.isin([0, 1]).all(axis=1), "values other than 0 and 1"),
        (n_marked == 0, "no diagnosis"),
        (n_marked > 1, "several diagnoses"),
    ):
        rows = marks.index[wrong]
        if len(rows):
            raise SkinTLError(
                f"{path}, line {rows[0]}: {what} ({len(rows)} rows in all). Expected a 1 for one diagnosis and 0 "
                "for the others. Correct these rows."
            )
    return values.idxmax(axis=1)


# --- Images that are in the training data too -------------------------------------------------------------------------


def refuse_known(image_ids, known_ids):
    """Refuse images that are in the data set that heads are trained with, by their ids, whatever the case.

    Parameters
    ----------
    image_ids, known_ids : iterable of str
        Of the external test set and of the data set.

    Raises
    ------
    SkinTLError
        If there are any; the message counts them and names the first.
    """
    known = {name.lower() for name in known_ids}
    shared = sorted(name for name in image_ids if name.lower() in known)
    if shared:
        raise SkinTLError(
            f"{len(shared)} images of the external test set are in the data set too: {', '.join(shared[:5])}"
            f"{' …' if len(shared) > 5 else ''}. A test on images that heads were trained with tells nothing: remove "
            "them from one of the two."
        )


# --- The steps --------------------------------------------------------------------------------------------------------


def prepare_external(study, folder):
    """Open the external test set, decode its images and write external/metadata.csv and external/images.json.

    Parameters
    ----------
    study : skin_tl.study.Study
    folder : pathlib.Path
        The study's folder below ``runs/``, with its data set prepared.

    Returns
    -------
    metadata : pandas.DataFrame
    images : skin_tl.images.ImageSet

    Raises
    ------
    SkinTLError
        If it cannot be had, is not as it should be, or holds images of the data set.
    """
    data = open_part(study, "external", folder)
    refuse_known(data.metadata["image_id"], read_metadata_table(folder)["image_id"])
    images = decode(data.files, study.image_size)
    write_images(data, data.metadata, images, study.external, folder / "external")
    return data.metadata, images


def find_duplicates(study, folder):
    """List external images that are near-duplicates of one of the data set in external/duplicates.csv, and say so.

    Patient data are not compared: the challenge's labels have none.

    Parameters
    ----------
    study : skin_tl.study.Study
    folder : pathlib.Path
        The study's folder below ``runs/``.

    Returns
    -------
    pandas.DataFrame
        Columns `DUPLICATE_COLUMNS`, sorted by image_id.
    """
    images, known = read_images(folder, "external"), read_images(folder)
    lesions = read_metadata_table(folder).set_index("image_id")["lesion_id"].loc[known.ids]
    values, reference = descriptors(images.pixels), descriptors(known.pixels)
    rows, ratio = nearest_of_other_lesions(values, reference, pd.factorize(lesions)[0])
    table = {"image_id": images.ids, "nearest_image_id": np.array(known.ids)[rows], "ratio": ratio.round(4)}
    table = pd.DataFrame(table).loc[ratio <= RATIO, DUPLICATE_COLUMNS]
    write_csv(folder / "external" / "duplicates.csv", table)
    if len(table):
        say(
            f"  note: {len(table)} external images look like an image of the data set. They are kept, and listed in "
            f"runs/{study.name}/external/duplicates.csv."
        )
    return table


def predict_external(study, strategy, backbone, folder):
    """Predict the external images with every head of a run's arm ``main``; write the run's predictions_isic2018.csv.

    Of a strategy that trains whole networks, those are asked, in the way that they predict the study's own images.

    Parameters
    ----------
    study : skin_tl.study.Study
    strategy : {'feature_extraction', 'fine_tuning', 'from_scratch'}
    backbone : str
    folder : pathlib.Path
        The study's folder below ``runs/``; the run must be trained.

    Returns
    -------
    pandas.DataFrame
        Columns `skin_tl.training.PREDICTION_COLUMNS`, all of them of the subset ``test``.

    Raises
    ------
    SkinTLError
        If a head is missing.
    """
    from skin_tl.backbones import import_keras
    from skin_tl.features import features_of
    from skin_tl.training import PREDICTION_COLUMNS, head_file, predict
    from skin_tl.tuning import predict_images

    keras = import_keras()
    run, images = folder / strategy / backbone, read_images(folder, "external")
    metadata = read_metadata_table(folder, "external").set_index("image_id").loc[images.ids].reset_index()
    same = {"dataset": study.external, "arm": "main", "train_fraction": 1.0, "subset": "test"}
    predictions = []
    whole = strategy in TUNED
    for preprocessing in study.preprocessings:
        seen = images.pixels if whole else features_of(study, folder, images, backbone, preprocessing)[0]
        for policy, seed in itertools.product(study.split_policies, study.seeds):
            file = run / ("models" if whole else "heads") / head_file("main", policy, preprocessing, seed)
            if not file.is_file():
                raise SkinTLError(f"{file} is missing. Delete {run / 'run.json'} and start again: it is trained anew.")
            model, rows = keras.models.load_model(file, compile=False), np.arange(len(seen))
            if whole:
                table = predict_images(study, model, seen, rows, metadata)
            else:
                table = predict(model, seen, rows, metadata)
            head_of = {"split_policy": policy, "preprocessing": preprocessing, "seed": seed}
            predictions.append(table.assign(**same, **head_of)[PREDICTION_COLUMNS])
    predictions = pd.concat(predictions, ignore_index=True)
    write_csv(run / f"predictions_{study.external}.csv", predictions)
    return predictions
