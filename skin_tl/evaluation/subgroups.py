"""Subgroups: metrics by sex, age, body site and way of diagnosis.

Takes predictions and the metadata table; gives rows of ``metrics.csv`` whose `subgroup` reads ``sex=female``, and says
which of them rest on enough lesions for a conclusion.
"""

import numpy as np
import pandas as pd

from skin_tl.evaluation.metric_list import COMPARED, MEANS_OF_CLASSES
from skin_tl.evaluation.metrics import N_BOOT, metric_rows
from skin_tl.evaluation.predictions import configurations
from skin_tl.schema import METRIC_COLUMNS

AGE_BANDS = {"0-29": (0, 30), "30-44": (30, 45), "45-59": (45, 60), "60-74": (60, 75), "75+": (75, np.inf)}
"""Bands of age in whole years: from, and up to but without."""

SUBGROUP_METRICS = dict.fromkeys(COMPARED, "all") | {"recall": "mel"}
"""Metrics of a subgroup and the class that each is of."""

MIN_LESIONS = 30
"""Lesions that a value must rest on for a conclusion."""

MIN_CLASS_LESIONS = 5
"""Lesions of each diagnosis present that a mean over diagnoses must rest on for a conclusion."""

UNKNOWN = "unknown"
"""The value of a trait that the table does not tell."""

MAX_WIDTH = 0.2
"""Width of the interval beyond which a value allows no conclusion."""


def subgroups(metadata: pd.DataFrame) -> pd.DataFrame:
    """Name the subgroups of each image.

    Parameters
    ----------
    metadata
        image_id, sex, age (years, may be empty), localization, dx_type.

    Returns
    -------
    pandas.DataFrame
        Indexed by image_id, columns sex, age, site and dx_type: str, ``unknown`` where the table does not tell.
    """
    age = pd.to_numeric(metadata["age"], errors="coerce")
    bands = pd.Series(UNKNOWN, index=metadata.index, dtype=object)
    for name, (start, end) in AGE_BANDS.items():
        bands[(age >= start) & (age < end)] = name
    traits = {"sex": metadata["sex"], "age": bands, "site": metadata["localization"], "dx_type": metadata["dx_type"]}
    table = pd.DataFrame(traits).fillna(UNKNOWN).replace("", UNKNOWN).astype(str)
    return table.set_index(metadata["image_id"].astype(str))


def subgroup_table(
    predictions: pd.DataFrame, metadata: pd.DataFrame, strategy: str, backbone: str, n_boot: int = N_BOOT
) -> pd.DataFrame:
    """Compute the metrics of every subgroup of the test images, as means over the seeds.

    Parameters
    ----------
    predictions
        From `skin_tl.evaluation.predictions.read_predictions`.
    metadata
        See `subgroups`; holds every test image.
    strategy, backbone
        Written into the rows.
    n_boot
        Draws of the bootstrap over lesions.

    Returns
    -------
    pandas.DataFrame
        Columns of ``metrics.csv`` and `conclusive` (bool, see `conclusive`); seed ``all`` only.  Besides
        `SUBGROUP_METRICS` the `support` of every class.
    """
    rows, groups = [], subgroups(metadata)
    for _, part in configurations(predictions):
        for column in groups.columns:
            names = part["image_id"].map(groups[column])
            for name, members in part.groupby(names):
                rows += metric_rows(members, f"{column}={name}", n_boot, groups=("confusion",))
    table = pd.DataFrame(rows).assign(strategy=strategy, backbone=backbone)
    wanted = table["metric"].map(SUBGROUP_METRICS) == table["class"]
    table = table[(table["seed"] == "all") & (wanted | (table["metric"] == "support"))]
    table = table[METRIC_COLUMNS].reset_index(drop=True)
    return table.assign(conclusive=conclusive(table))


def conclusive(rows: pd.DataFrame) -> pd.Series:
    """Return which values have enough lesions for a conclusion.

    A value does if it rests on at least `MIN_LESIONS` lesions and its interval is no wider than `MAX_WIDTH`; a mean
    over diagnoses also needs two diagnoses, and `MIN_CLASS_LESIONS` lesions of each that is present.  Images whose
    trait is `UNKNOWN` are no subgroup to conclude about.

    Parameters
    ----------
    rows
        Rows of ``metrics.csv`` that include those of the metric `support`.

    Returns
    -------
    pandas.Series
        Of bool, with the index of `rows`; False for rows without an interval.
    """
    labels = [name for name in METRIC_COLUMNS[: METRIC_COLUMNS.index("class")] if name in rows]
    support = rows[(rows["metric"] == "support") & (rows["class"] != "all") & (rows["n_lesions"] > 0)]
    sizes = support.groupby(labels)["n_lesions"].agg(["min", "size"]).reset_index()
    found = rows[labels].merge(sizes, on=labels, how="left").set_axis(rows.index)
    enough = (rows["n_lesions"] >= MIN_LESIONS) & (rows["ci_high"] - rows["ci_low"] <= MAX_WIDTH)
    mean_of_classes = rows["metric"].isin(MEANS_OF_CLASSES) & (rows["class"] == "all")
    balanced = (found["min"] >= MIN_CLASS_LESIONS) & (found["size"] >= 2)
    known = ~rows["subgroup"].str.endswith(f"={UNKNOWN}")
    return known & enough & (balanced | ~mean_of_classes)
