"""How much it overstates that temperature and threshold are fitted on the lesions that chose penalty and epoch.

    SKIN_TL_HAM10000=FOLDER python tests/benchmarks/nested_validation.py FEATURES.npy [--seeds 3] [--parts 3]

FEATURES.npy holds one row per image, sorted by image_id, as the features of the cache do.  The validation lesions of
the split by lesion are divided in three parts, stratified by diagnosis.  One part chooses penalty and epoch;
temperature and threshold for melanoma are fitted once on that part (``same``) and once on another (``other``), and both
are evaluated on the third.  The two latter always change places; with `--parts` 3 each part chooses in turn.  The test
subset is left out.  Prints each case, the means, and the mean differences between ``same`` and ``other`` with their
standard error over the seeds.
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedKFold

sys.path[:0] = [str(Path(__file__).parent.parent.parent)]

from skin_tl.data.dataset import read_folder
from skin_tl.data.splits import draw_splits, subset_rows
from skin_tl.evaluation.calibration import expected_calibration_error, fit_temperature, log_loss, scale_temperature
from skin_tl.evaluation.decisions import choose_threshold, lesion_scores
from skin_tl.models.heads import labels_of, predict, train_head
from skin_tl.schema import PROBABILITIES
from skin_tl.study import load_study


def divide(rows, metadata, seed):
    """Divide rows into three parts of whole lesions, stratified by diagnosis; list of (n,) int arrays."""
    part = metadata.iloc[rows]
    lesions = part.drop_duplicates("lesion_id")
    folds = StratifiedKFold(3, shuffle=True, random_state=seed).split(lesions, lesions["dx"])
    return [rows[part["lesion_id"].isin(lesions["lesion_id"].iloc[members])] for _, members in folds]


def evaluated(fitted, held_out):
    """Fit temperature and threshold on some predictions, evaluate both on others; return values by name."""
    at = {
        name: lesion_scores(table.assign(seed=0, subset="val")) for name, table in (("fit", fitted), ("on", held_out))
    }
    temperature = fit_temperature(fitted["dx"], fitted[PROBABILITIES])
    threshold = choose_threshold(at["fit"]["melanoma"], at["fit"]["melanoma_score"])
    scaled = scale_temperature(held_out[PROBABILITIES].to_numpy(), temperature)
    flagged, wanted = at["on"]["melanoma_score"] >= threshold, at["on"]["melanoma"]
    return {
        "temperature": temperature,
        "log_loss": log_loss(held_out["dx"], scaled),
        "ece": expected_calibration_error(held_out["dx"], scaled),
        "threshold": threshold,
        "sensitivity": flagged[wanted].mean(),
        "flagged": flagged[~wanted].mean(),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("features", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--parts", type=int, default=3, choices=(1, 2, 3))
    asked = parser.parse_args()
    study = load_study("ham10000")
    metadata = read_folder(Path(os.environ["SKIN_TL_HAM10000"])).metadata.reset_index(drop=True)
    features, found = np.load(asked.features, mmap_mode="r"), []
    for seed in range(asked.seeds):
        splits = draw_splits(metadata, ["lesion"], [seed])
        rows = subset_rows(splits, "lesion", seed, metadata["image_id"])
        parts = divide(rows["val"], metadata, seed)
        for chooser in range(asked.parts):
            head, history = train_head(
                features, labels_of(metadata), {"train": rows["train"], "val": parts[chooser]}, study
            )
            tables = [predict(head, features, part, metadata) for part in parts]
            for held_out in {0, 1, 2} - {chooser}:
                other = 3 - chooser - held_out
                for name, fitted in (("same", chooser), ("other", other)):
                    values = evaluated(tables[fitted], tables[held_out])
                    found.append({"seed": seed, "fitted_on": name, "l2": history["l2"].iloc[0]} | values)
            print(pd.DataFrame(found).tail(4).round(4).to_string(), flush=True)
    means = pd.DataFrame(found).groupby(["fitted_on", "seed"]).mean()
    difference = means.loc["same"] - means.loc["other"]
    print(means.groupby("fitted_on").mean().round(4).to_string())
    print("same − other", difference.mean().round(4).to_dict())
    print("standard error", difference.sem().round(4).to_dict())


if __name__ == "__main__":
    main()
