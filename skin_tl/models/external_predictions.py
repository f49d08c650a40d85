"""Predictions of the external test set by the trained heads and networks of a run.

Takes a finished run and the decoded external images; gives ``predictions_<external>.csv`` in the run's folder.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from skin_tl.data.preparation import read_images, read_metadata_table
from skin_tl.files import write_csv
from skin_tl.models.features import find_features
from skin_tl.models.heads import Head, head_file, predict
from skin_tl.schema import PREDICTION_COLUMNS, TUNED

if TYPE_CHECKING:
    from skin_tl.study import Study


def predict_external(study: Study, strategy: str, backbone: str, folder: Path) -> pd.DataFrame:
    """Predict the external images with every head of a run's arm ``main``; write the run's predictions_isic2018.csv.

    Of a strategy that trains whole networks, those are asked, in the way that they predict the study's own images.

    Parameters
    ----------
    strategy : {'feature_extraction', 'fine_tuning', 'from_scratch'}
    folder
        The study's folder below ``runs/``; the run must be trained.

    Returns
    -------
    pandas.DataFrame
        Columns `skin_tl.models.training.PREDICTION_COLUMNS`, all of them of the subset ``test``.

    Raises
    ------
    SkinTLError
        If a head is missing or damaged.
    """
    run, images = folder / strategy / backbone, read_images(folder, "external")
    metadata = read_metadata_table(folder, "external").set_index("image_id").loc[images.ids].reset_index()
    same = {"dataset": study.external, "arm": "main", "train_fraction": 1.0, "subset": "test"}
    predictions = []
    whole = strategy in TUNED
    for preprocessing in study.preprocessings:
        where = "external/features_"
        given = study, folder, images, backbone, preprocessing, where, study.views
        seen = images.pixels if whole else find_features(*given)
        rows = np.arange(len(seen))
        for policy, seed in itertools.product(study.split_policies, study.seeds):
            name = ("main", policy, preprocessing, seed)
            if whole:
                from skin_tl.models.tuning import predict_whole, read_network

                table = predict_whole(study, strategy, read_network(run, *name), seen, rows, metadata)
            else:
                table = predict(Head.read(run / "heads" / head_file(*name)), seen, rows, metadata)
            head_of = {"split_policy": policy, "preprocessing": preprocessing, "seed": seed}
            predictions.append(table.assign(**same, **head_of)[PREDICTION_COLUMNS])
    predictions = pd.concat(predictions, ignore_index=True)
    write_csv(run / f"predictions_{study.external}.csv", predictions)
    return predictions
