"""How often the paired comparison finds a difference between backbones that are equally good.

    python tests/benchmarks/null_comparison.py [--tests 1000] [--draws 500]

Four backbones of one skill score the same 1,494 test lesions; the errors of a lesion are in part shared.  All six pairs
are compared as `skin_tl.evaluation.comparison.compare_backbones` does.  Prints per metric how often a single pair has p
< 0.05 and how often any pair has p < 0.05 after Holm's correction; the latter should be at most 5 %.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent.parent.parent)]

from simulated import CENTRES, CODES, N_TEST, softmax

from skin_tl.evaluation.comparison import compare_lesions
from skin_tl.schema import CLASSES, PROBABILITIES


def rejections(n_tests, n_draws, n_backbones=4, shared=0.9, own=0.8, seed=1):
    """Compare equally good backbones many times.

    Parameters
    ----------
    n_tests, n_draws, n_backbones : int
    shared, own : float
        Standard deviations of the lesion's effect that all backbones share and of each backbone's own.
    seed : int

    Returns
    -------
    pandas.DataFrame
        Indexed by metric: `single`, the share of pairs with p < 0.05, and `any_corrected`, the share of tests in which
        a pair has p_holm < 0.05.
    """
    rng = np.random.default_rng(seed)
    found = []
    for test in range(n_tests):
        y = CODES[rng.integers(len(CODES), size=N_TEST)]
        logits = CENTRES[y] + shared * rng.normal(size=(len(y), len(CLASSES)))
        tables = {}
        for name in range(n_backbones):
            table = pd.DataFrame(softmax(logits + own * rng.normal(size=logits.shape)), columns=PROBABILITIES)
            tables[f"backbone {name}"] = table.assign(dx=np.array(CLASSES)[y])
        found.append(pd.DataFrame(compare_lesions(tables, n_draws)).assign(test=test))
    rows = pd.concat(found)
    single = (rows["p"] < 0.05).groupby(rows["metric"]).mean()
    corrected = (rows["p_holm"] < 0.05).groupby([rows["metric"], rows["test"]]).any().groupby("metric").mean()
    return pd.DataFrame({"single": single, "any_corrected": corrected})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tests", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=500)
    options = parser.parse_args()
    started = time.perf_counter()
    table = rejections(options.tests, options.draws)
    print(f"{options.tests} simulated comparisons of 4 equal backbones, {options.draws} draws each")
    print(table.map("{:.1%}".format).to_string())
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
