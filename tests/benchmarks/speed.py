"""How long the evaluation of 4 backbones × 3 seeds × 2 split policies takes on predictions of HAM10000's size.

    python tests/benchmarks/speed.py [--draws 2000]

Prints processor and wall time of each table of a report; all of them should take under 60 s on two cores.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent.parent.parent)]

from simulated import CODES, predictions

from skin_tl.evaluation.abstention import abstention_tables
from skin_tl.evaluation.comparison import compare_backbones
from skin_tl.evaluation.conformal import conformal_table
from skin_tl.evaluation.decisions import decisions_table, roc_points
from skin_tl.evaluation.metrics import metrics_table
from skin_tl.evaluation.net_benefit import decision_curves
from skin_tl.evaluation.predictions import check_predictions
from skin_tl.evaluation.risk import risk_bins, risk_table
from skin_tl.evaluation.subgroups import subgroup_table
from skin_tl.schema import DISTANCE_COLUMNS


def backbone_predictions(skill):
    """Make predictions of HAM10000's lesions, a fifth of them tested for each seed."""
    tables = []
    for policy in ("lesion", "image"):
        rng = np.random.default_rng(len(policy))
        lesions = rng.permutation(len(CODES))
        tables.append(predictions(rng, seeds=(1, 2, 3), split_policy=policy, lesions=lesions, n_parts=5, skill=skill))
    return check_predictions(pd.concat(tables))


def metadata_of(table):
    """Make metadata with as many subgroups as HAM10000's has."""
    images = table[["image_id"]].drop_duplicates()
    number = np.arange(len(images))
    return images.assign(
        sex=np.array(["female", "male"])[number % 2],
        age=5.0 * (number % 18),
        localization=np.char.add("site ", (number % 15).astype(str)),
        dx_type=np.array(["histo", "follow_up", "consensus", "confocal"])[number % 4],
    )


def distances_of(tables):
    """Make distances in feature space of all images of all backbones."""
    rng, keys = np.random.default_rng(0), DISTANCE_COLUMNS[:-1]
    return pd.concat(
        [table.assign(backbone=name)[keys].assign(distance=rng.random(len(table))) for name, table in tables.items()]
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=2000)
    draws = parser.parse_args().draws
    tables = {f"backbone {skill}": backbone_predictions(skill) for skill in (0.8, 0.9, 1.0, 1.1)}
    metadata = metadata_of(next(iter(tables.values())))
    each = {
        "metrics": lambda table, name: metrics_table(table, "s", name, draws),
        "decisions": lambda table, name: decisions_table(table, "s", name, draws),
        "ROC points": lambda table, name: roc_points(table, "s", name),
        "subgroups": lambda table, name: subgroup_table(table, metadata, "s", name, draws),
        "decision curves": lambda table, name: decision_curves(table, "s", name, draws),
        "risk": lambda table, name: (risk_table(table, "s", name, draws), risk_bins(table, "s", name, draws)),
        "prediction sets": lambda table, name: conformal_table(table, "s", name, draws),
    }
    steps = {
        step: lambda make=make: [make(table, name) for name, table in tables.items()] for step, make in each.items()
    }
    steps["comparisons"] = lambda: compare_backbones(tables, "s", draws)
    steps["abstention"] = lambda: abstention_tables(tables, distances_of(tables), "s", draws)
    total = np.zeros(2)
    for step, run in steps.items():
        started = np.array([time.process_time(), time.perf_counter()])
        run()
        taken = np.array([time.process_time(), time.perf_counter()]) - started
        total += taken
        print(f"{step:15} {taken[0]:6.1f} s of a processor, {taken[1]:6.1f} s on the clock", flush=True)
    print(f"{'together':15} {total[0]:6.1f} s of a processor, {total[1]:6.1f} s on the clock")


if __name__ == "__main__":
    main()
