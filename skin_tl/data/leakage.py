"""Leakage experiment: the effect of other images of the test lesions in the training set.

Takes the metadata and the lesion splits; gives for each seed two training sets for one test subset.  They have the same
size and the same number of images per diagnosis, and differ in this alone: the arm ``leak_with_siblings`` has images of
test lesions in the place of images of other lesions.

One image of each test lesion is tested.  The other images of these lesions, their siblings, are in training in the one
arm and nowhere in the other.  Validation is the same, and free of test lesions, in both.
"""

import numpy as np
import pandas as pd

from skin_tl.errors import SkinTLError
from skin_tl.schema import ARMS, LEAKAGE_COLUMNS


def leakage_splits(metadata: pd.DataFrame, splits: pd.DataFrame) -> pd.DataFrame:
    """Draw both arms of the experiment from the lesion splits.

    Parameters
    ----------
    metadata
        image_id, lesion_id, dx.
    splits
        From `skin_tl.data.splits.draw_splits`; only the policy ``lesion`` is used.

    Returns
    -------
    pandas.DataFrame
        Columns `LEAKAGE_COLUMNS`, one row per arm, seed and image that is used; `has_siblings` tells whether an image's
        lesion has images beside it.  The order of rows in the arguments does not matter.

    Raises
    ------
    SkinTLError
        If no test lesion has a second image.
    """
    splits = splits[splits["split_policy"] == "lesion"]
    known = metadata[["image_id", "dx"]].drop_duplicates("image_id")
    tables = [_arms(split.merge(known, on="image_id", how="left"), seed) for seed, split in splits.groupby("seed")]
    return pd.concat(tables, ignore_index=True)[LEAKAGE_COLUMNS]


def _arms(split, seed):
    """Return both arms of one seed."""
    rng = np.random.default_rng(int(seed))
    split = split.sort_values("image_id", ignore_index=True)
    split["has_siblings"] = split.groupby("lesion_id")["image_id"].transform("size") > 1
    parts = {name: part for name, part in split.groupby("subset")}
    test = parts["test"].iloc[rng.permutation(len(parts["test"]))].drop_duplicates("lesion_id")
    siblings = parts["test"].drop(test.index)
    if siblings.empty:
        raise SkinTLError(
            "`leakage: true` needs lesions with several images, and no test lesion has a second one. Set "
            "`leakage: false`, or use another data set."
        )
    stand_ins = []
    for dx, wanted in siblings.groupby("dx"):
        of_class = parts["train"].index[parts["train"]["dx"] == dx].to_numpy()
        n_swapped = min(len(wanted), len(of_class))
        stand_ins.append(rng.choice(of_class, n_swapped, replace=False))
        siblings = siblings.drop(wanted.index[n_swapped:])
    kept = parts["train"].drop(np.concatenate(stand_ins))
    arms = []
    for arm, train in zip(ARMS, (pd.concat([kept, siblings]), parts["train"]), strict=True):
        rows = pd.concat([train.assign(subset="train"), parts["val"], test])
        arms.append(rows.sort_values("image_id").assign(arm=arm))
    return pd.concat(arms)
