"""Splits: the training, validation and test sets.

Takes the metadata table; gives a table that names the subset of every image for each split policy and seed, and one for
the experiments that a study asks for beside.  Both are drawn once and are the same for every backbone, as are the
smaller training subsets of learning curves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from skin_tl.data.leakage import leakage_splits
from skin_tl.errors import SkinTLError
from skin_tl.files import fingerprint
from skin_tl.schema import CLASSES, EXPERIMENT, SHARES, SUBSETS

if TYPE_CHECKING:
    from skin_tl.study import Study


FIRST_OTHER_SEED = 1001
"""Seed of the first of a study's `other_splits`, beyond those that a study is likely to list."""


def draw_splits(metadata: pd.DataFrame, policies: Sequence[str], seeds: Iterable[int]) -> pd.DataFrame:
    """Draw 60/20/20 splits, stratified by diagnosis.

    Parameters
    ----------
    metadata
        Columns image_id, lesion_id, dx; row order does not matter.
    policies : {'lesion', 'image'}
        `lesion` draws lesions and takes all their images along; `image` draws images.

    Returns
    -------
    pandas.DataFrame
        Columns split_policy, seed, image_id, lesion_id, subset; one row per policy, seed and image.

    Raises
    ------
    SkinTLError
        If a diagnosis would be absent from a subset.
    """
    return pd.concat([_draw(metadata, policy, seed) for policy in policies for seed in seeds], ignore_index=True)


def draw_experiments(study: Study, metadata: pd.DataFrame) -> pd.DataFrame:
    """Draw the splits of the experiments that a study asks for beside its own training.

    `leakage` gives the two arms of `skin_tl.data.leakage`, under native scaling where the study has it, with its seeds.
    `other_splits` gives the arm ``other_split``: further random splits under the presentation's set-up (split by image
    and scaling to −1…1), or the first that the study lists where it has not got that.

    Parameters
    ----------
    metadata
        Columns image_id, lesion_id, dx; row order does not matter.

    Returns
    -------
    pandas.DataFrame
        Columns `EXPERIMENT`, image_id, lesion_id, subset; without rows where the study asks for none.

    Raises
    ------
    SkinTLError
        If a diagnosis would be absent from a subset, or no lesion has a second image to leak.
    """
    columns = [*EXPERIMENT, "image_id", "lesion_id", "subset"]
    tables = [pd.DataFrame(columns=columns)]
    if study.leakage:
        arms = leakage_splits(metadata, draw_splits(metadata, ["lesion"], study.seeds))
        tables.append(arms.assign(preprocessing=_prefer("native", study.preprocessings)))
    if study.other_splits:
        policy = _prefer("image", study.split_policies)
        seeds = range(FIRST_OTHER_SEED, FIRST_OTHER_SEED + study.other_splits)
        others = draw_splits(metadata, [policy], seeds)
        tables.append(others.assign(arm="other_split", preprocessing=_prefer("unit", study.preprocessings)))
    return pd.concat([table[columns] for table in tables if len(table)] or tables, ignore_index=True)


def _prefer(wanted, listed):
    return wanted if wanted in listed else listed[0]


def _draw(metadata, policy, seed):
    table = metadata[["image_id", "lesion_id", "dx"]].sort_values("image_id", ignore_index=True)
    unit = {"lesion": "lesion_id", "image": "image_id"}[policy]
    units = table.drop_duplicates(unit).sort_values(unit).set_index(unit)["dx"]
    _enough(units, policy)
    train, rest = train_test_split(units, test_size=SHARES["val"] + SHARES["test"], stratify=units, random_state=seed)
    share = SHARES["test"] / (SHARES["val"] + SHARES["test"])
    val, test = train_test_split(rest, test_size=share, stratify=rest, random_state=seed)
    subsets = {name: subset for subset, part in zip(SUBSETS, (train, val, test), strict=True) for name in part.index}
    table.insert(0, "split_policy", policy)
    table.insert(1, "seed", seed)
    table["subset"] = table[unit].map(subsets)
    present = table.groupby("subset")["dx"].unique()
    for subset in SUBSETS:
        absent = [dx for dx in CLASSES if dx not in present.get(subset, ())]
        if absent:
            raise SkinTLError(_too_few(units, policy, absent, subset))
    return table[["split_policy", "seed", "image_id", "lesion_id", "subset"]]


def _enough(units, policy):
    counts = units.value_counts()
    scarce = [dx for dx in CLASSES if counts.get(dx, 0) < 5]
    if scarce:
        raise SkinTLError(_too_few(units, policy, scarce, "test"))


def _too_few(units, policy, scarce, subset):
    counts = units.value_counts()
    listed = ", ".join(f"{dx} ({counts.get(dx, 0)})" for dx in scarce)
    return (
        f"split_policies: a split by {policy} would leave the {subset} subset without {listed}: 60/20/20 needs at "
        f"least 5 {'lesions' if policy == 'lesion' else 'images'} of each diagnosis. Add some to the data "
        "set, or use a larger one."
    )


def subset_rows(splits: pd.DataFrame, policy: str, seed: int, image_ids: Sequence[str]) -> dict[str, np.ndarray]:
    """Return where the images of each subset stand in a list of ids.

    Parameters
    ----------
    splits
        From `draw_splits`.
    image_ids
        In the order of the array that the rows index.

    Returns
    -------
    dict
        For each subset, (n,) int64, increasing.
    """
    part = splits[(splits["split_policy"] == policy) & (splits["seed"] == seed)]
    subset = pd.Series(image_ids).map(part.set_index("image_id")["subset"]).to_numpy()
    return {name: np.flatnonzero(subset == name) for name in SUBSETS}


def draw_fraction(lesions: pd.DataFrame, fraction: float, seed: int) -> set[str]:
    """Draw a part of the training lesions: whole lesions, the same share of each diagnosis, at least one of each.

    A smaller part is in every larger one of the same lesions and seed.

    Parameters
    ----------
    lesions
        Columns lesion_id and dx, of training images or lesions; neither row order nor repeated lesions matter.
    fraction
        Above 0, at most 1.

    Returns
    -------
    set of str
        The lesions that are drawn.
    """
    rng = np.random.default_rng(seed)
    drawn = set()
    for _, names in lesions.drop_duplicates("lesion_id").sort_values("lesion_id").groupby("dx")["lesion_id"]:
        order = rng.permutation(names.to_numpy(str))
        drawn.update(order[: max(1, round(fraction * len(order)))].tolist())
    return drawn


def fraction_rows(
    rows: dict[str, np.ndarray], metadata: pd.DataFrame, fraction: float, seed: int
) -> dict[str, np.ndarray]:
    """Keep the training rows of the lesions that `draw_fraction` draws; validation and test stay as they are.

    Parameters
    ----------
    rows
        From `subset_rows`.
    metadata
        lesion_id and dx, one row per row that is indexed.

    Returns
    -------
    dict
        As `rows`.
    """
    train = metadata.iloc[rows["train"]]
    drawn = draw_fraction(train, fraction, seed)
    return rows | {"train": rows["train"][train["lesion_id"].astype(str).isin(drawn).to_numpy()]}


def split_fingerprints(splits: pd.DataFrame) -> dict[str, dict[str, str]]:
    """Return ``{split_policy: {seed: fingerprint}}`` for a table of `draw_splits`."""
    prints: dict[str, dict[str, str]] = {}
    for (policy, seed), part in splits.groupby(["split_policy", "seed"]):
        rows = part.sort_values("image_id")[["image_id", "subset"]].to_csv(index=False)
        prints.setdefault(policy, {})[str(seed)] = fingerprint(rows)
    return prints
