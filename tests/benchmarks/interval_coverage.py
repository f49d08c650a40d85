"""How often 95 % intervals hold the truth, in test sets of HAM10000's size and clustering.

    python tests/benchmarks/interval_coverage.py [--tests 2000] [--draws 1000] [--design test|study] [--ranking]

Design ``test``: each simulated test set is 1,494 lesions with their images (about 2,003), drawn from the population.
Design ``study``: a whole data set of 7,470 lesions is drawn, then three test subsets of it, stratified by diagnosis as
a study splits them; the interval is that of the mean over the three.  There the class mix varies less than the
bootstrap takes it to, so intervals of what depends on it (accuracy) are somewhat wide.

Prints for each metric the truth, the coverage of our interval and of the plain percentiles, how often each lies wholly
above or below the truth, and the mean widths.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent.parent.parent)]

from simulated import CODES, N_TEST, draw_images, point_values, true_values

from skin_tl.evaluation import uncertainty
from skin_tl.evaluation.metric_list import MEANS_OF_CLASSES
from skin_tl.schema import CLASSES


def simulate(design, n_draws, groups, rng):
    """Draw one test set, or three test subsets of a data set; return rows metric, class, value, ours, percentiles."""
    n_seeds = 3 if design == "study" else 1
    lesions = rng.integers(len(CODES), size=len(CODES) if design == "study" else N_TEST)
    y, lesion, probabilities = draw_images(lesions, rng, n_seeds)
    tests = [np.flatnonzero(stratified_fifth(lesions, rng)[lesion]) for _ in range(n_seeds)]
    if design == "test":
        tests = [np.arange(len(y))]
    used = np.unique(lesion[np.concatenate(tests)])
    weights = uncertainty.lesion_weights(len(used), n_draws, rng)
    values, draws = {}, {}
    called = {code: set() for code in range(len(CLASSES))}
    for test, probability in zip(tests, probabilities, strict=True):
        rows = np.searchsorted(used, lesion[test])
        for key, value in point_values(y[test], probability[test], groups).items():
            values.setdefault(key, []).append(value)
        for key, drawn in uncertainty.draw_metrics(y[test], probability[test], rows, weights, groups).items():
            draws.setdefault(key, []).append(drawn)
        for code in called:
            called[code].update(rows[probability[test].argmax(1) == code])
    of_class = np.bincount(CODES[lesions[used]], minlength=len(CLASSES))
    for (metric, code), drawn in draws.items():
        mean, value = uncertainty.nanmean(drawn), np.mean(values[metric, code])
        n_units = len(used) if code is None else len(called[code]) if metric == "precision" else of_class[code]
        if code is None and metric in MEANS_OF_CLASSES:
            n_units = uncertainty.units_of_mean(of_class)
        ours = uncertainty.interval(metric, value, mean, n_units)
        yield (metric, code), (value, *ours, *np.nanquantile(mean, [0.025, 0.975]))


def stratified_fifth(lesions, rng):
    """Choose a fifth of the lesions of each diagnosis: (n_lesions,) bool array."""
    chosen = np.zeros(len(lesions), bool)
    for code in range(len(CLASSES)):
        members = np.flatnonzero(CODES[lesions] == code)
        chosen[rng.permutation(members)[: round(len(members) / 5)]] = True
    return chosen


def coverage(n_tests, n_draws, design="test", groups=("confusion",), seed=1):
    """Simulate test sets and compare intervals with the truth.

    Returns
    -------
    dict
        (metric, class) → dict with truth, sd, and (coverage, above, below, width) of `ours` and `percentile`.
    """
    truth = true_values(groups, np.random.default_rng([seed, 0]))
    found = {}
    rng = np.random.default_rng([seed, 1])
    for _ in range(n_tests):
        for key, row in simulate(design, n_draws, groups, rng):
            found.setdefault(key, []).append(row)
    summary = {}
    for key, rows in found.items():
        rows, true = np.array(rows), truth[key]
        summary[key] = {"truth": true, "bias": np.nanmean(rows[:, 0]) - true, "sd": np.nanstd(rows[:, 0])}
        for name, (low, high) in (("ours", rows[:, 1:3].T), ("percentile", rows[:, 3:5].T)):
            known = np.isfinite(low)
            above, below = (true < low[known]).mean(), (true > high[known]).mean()
            summary[key][name] = (1 - above - below, above, below, (high - low)[known].mean())
    return summary


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tests", type=int, default=2000)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--design", choices=("test", "study"), default="test")
    parser.add_argument("--ranking", action="store_true", help="also ROC AUC, average precision, log loss and ECE")
    options = parser.parse_args()
    started = time.perf_counter()
    groups = ("confusion", "ranking", "calibration") if options.ranking else ("confusion",)
    summary = coverage(options.tests, options.draws, options.design, groups)
    print(f"{options.tests} simulated, design {options.design}, {options.draws} draws each")
    print(
        f"{'metric':18} {'class':6} {'truth':>6} {'bias':>7} {'sd':>6}   ours: covered above below width    percentiles"
    )
    for (metric, code), row in summary.items():
        parts = [f"{c:6.1%} {a:5.1%} {b:5.1%} {w:.3f}" for c, a, b, w in (row["ours"], row["percentile"])]
        label = "all" if code is None else CLASSES[code]
        numbers = f"{row['truth']:6.3f} {row['bias']:+.4f} {row['sd']:.4f}"
        print(f"{metric:18} {label:6} {numbers}        {parts[0]}     {parts[1]}")
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
