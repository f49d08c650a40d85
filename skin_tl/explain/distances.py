"""Distances in feature space: the distance of each image to the training images, for each backbone.

Takes the features that earlier steps computed; gives ``features/distances.csv``, which the evaluation reads: it holds
the OOD scores of `skin_tl.explain.neighbours` of validation, test and external images.  Where the cache still holds the
features, no network is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from skin_tl.data.preparation import read_images, read_splits
from skin_tl.explain.neighbours import OOD_NEIGHBOUR, Rows, nearest, ood_score
from skin_tl.files import write_csv
from skin_tl.models.features import find_features
from skin_tl.schema import DISTANCE_COLUMNS, DISTANCES

if TYPE_CHECKING:
    from skin_tl.study import Study


def write_distances(study: Study, folder: Path) -> None:
    """Write the distance of each image to the training images of each split, for each backbone and scaling.

    Columns `DISTANCE_COLUMNS`; the distance (0…2, to six decimals) is that of `ood_score`.

    Parameters
    ----------
    study
    folder
        The study's folder below ``runs/``; the features of all backbones are computed.
    """
    splits, sets = read_splits(folder), {"internal": read_images(folder)}
    if study.external:
        sets[study.external] = read_images(folder, "external")
    places = {"internal": "features/", study.external: "external/features_"}
    row_of = pd.Series(np.arange(len(sets["internal"].ids)), index=sets["internal"].ids)
    tables = []
    for backbone in study.backbones:
        for preprocessing in study.preprocessings:
            features = {
                name: find_features(study, folder, images, backbone, preprocessing, places[name])
                for name, images in sets.items()
            }
            own = features["internal"]
            for (policy, seed), split in splits.groupby(["split_policy", "seed"], sort=False):
                training = Rows(own, row_of[split.loc[split["subset"] == "train", "image_id"]].to_numpy())
                rest = split.loc[split["subset"] != "train", "image_id"]
                asked: dict[str, tuple] = {"internal": (rest, Rows(own, row_of[rest].to_numpy()))}
                asked |= {name: (images.ids, features[name]) for name, images in sets.items() if name != "internal"}
                for name, (ids, values) in asked.items():
                    distances, _ = nearest(values, training, min(OOD_NEIGHBOUR, len(training)))
                    labels = {"backbone": backbone, "preprocessing": preprocessing, "dataset": name}
                    labels |= {"split_policy": policy, "seed": seed}
                    score = ood_score(distances).astype(float).round(6)
                    tables.append(pd.DataFrame({**labels, "image_id": np.asarray(ids), "distance": score}))
    write_csv(folder / DISTANCES, pd.concat(tables, ignore_index=True)[DISTANCE_COLUMNS])
