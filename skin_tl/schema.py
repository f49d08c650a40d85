"""Schema: the diagnoses, subsets, strategies and table columns that all steps share.

Takes nothing; gives constants.  A column or a name that two modules use stands here and nowhere else.
"""

from typing import Literal, get_args

PAIR_COLUMNS = [
    *("image_id", "lesion_id", "dx", "nearest_image_id", "nearest_lesion_id", "nearest_dx", "ratio"),
    "same_patient_data",
]

ARMS = ("leak_with_siblings", "leak_without_siblings")

LEAKAGE_COLUMNS = ["arm", "split_policy", "seed", "image_id", "lesion_id", "subset", "has_siblings"]

METADATA_COLUMNS = ("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization")
DX_TYPES = ("histo", "follow_up", "consensus", "confocal")

CELL = ["dataset", "arm", "split_policy", "preprocessing", "train_fraction"]
"""Columns that tell one trained configuration from another; seeds repeat it."""

METRIC_COLUMNS = [
    *("dataset", "arm", "strategy", "backbone", "split_policy", "preprocessing", "train_fraction", "seed"),
    *("subgroup", "class", "metric", "value", "ci_low", "ci_high", "n_images", "n_lesions"),
]

CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
"""The diagnoses of HAM10000, in the order of every probability and matrix of the project."""

PROBABILITIES = [f"p_{name}" for name in CLASSES]
"""Columns of the probabilities, in the order of `CLASSES`."""

PREDICTION_COLUMNS = [
    *("dataset", "arm", "train_fraction", "split_policy", "preprocessing", "seed", "subset"),
    *("image_id", "lesion_id", "dx", *PROBABILITIES),
]

SUBSETS = ("train", "val", "test")

SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}
"""How a split divides lesions or images."""

Strategy = Literal["feature_extraction", "fine_tuning", "from_scratch"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
"""How much of a network learns: its head alone; its head, then the backbone; everything, from random weights."""

TUNED = STRATEGIES[1:]
"""Strategies that train whole networks on images."""

Features = Literal["last", "all_stages"]
"""What a frozen backbone's head gets: the pooled outputs of the last stage, or of the last three."""

RANDOM_WEIGHTS = "random_weights"
"""Arm of the heads on features of the same backbone with random weights (study key `random_control`)."""

METADATA = "metadata_only"

BASELINES = ("majority", METADATA, "colour_histogram")
"""Pseudo-backbones that use no network; their runs stand under the strategy ``baseline``."""

ENSEMBLE = "ensemble"
"""Pseudo-backbone of a strategy: its backbones' probabilities, pooled."""


EVALUATED = (
    *("metrics.csv", "comparisons.csv", "effects.csv", "decisions.csv", "roc.csv", "subgroups.csv"),
    *("calibration.csv", "other_splits.csv", "external.csv", "abstention.csv", "risk_coverage.csv", "conformal.csv"),
    *("shift.csv", "priors.csv", "decision_curves.csv", "prevalence.csv", "risk.csv", "risk_bins.csv"),
    "robustness.csv",
)
"""Tables that the step `evaluate` writes into ``report/<study>/`` (`skin_tl.evaluation.scoring`)."""

REPORTED = (
    *("backbones.csv", "classes.csv", "classification_reports.csv", "confusion.csv", "contrasts.csv", "explained.csv"),
    *("explanations.csv", "extremes.csv", "feature_maps.csv", "fingerprints.csv", "flow.csv", "history.csv"),
    *("image_sizes.csv", "net_benefit_ranges.csv"),
    *("literature.csv", "metadata_counts.csv", "points.csv", "published_results.csv", "ranking.csv", "runs.csv"),
    *("scores.csv", "settings.csv", "setups.csv", "subgroup_ranges.csv", "subsets.csv", "training.csv"),
)
"""Further tables that the report of each study writes there, in its first language (`skin_tl.reporting.report`)."""

EXPLAINED = ("images.csv", "maps.npy", "shuffled_maps.npy", "points.csv")
"""Files that the step `explain` writes into ``explanations/`` of a run (`skin_tl.explain.explanations`)."""


def kind_of(backbone: str) -> str:
    """Return what a name of a run stands for: backbone, ensemble or baseline."""
    return "baseline" if backbone in BASELINES else "ensemble" if backbone == ENSEMBLE else "backbone"


SETUP = ["strategy", "split_policy", "preprocessing"]
"""What a backbone is compared under; one choice of the three is a set-up."""

CONFIDENCE = 0.95
"""Confidence level of every interval."""

SIGNIFICANCE = 0.05
"""Level below which a corrected p-value counts as statistically significant."""

THRESHOLD = 0.1
"""Threshold probability at which prose gives a net benefit."""

HISTORY_COLUMNS = [
    *("arm", "train_fraction", "split_policy", "preprocessing", "seed", "stage", "l2", "epoch"),
    *("loss", "accuracy", "macro_f1", "val_loss", "val_accuracy", "val_macro_f1", "kept"),
]

EXPERIMENT = ["arm", "split_policy", "preprocessing", "seed"]
"""Columns that name one head of an experiment."""

HEAD = [*EXPERIMENT, "train_fraction"]
"""Columns that name one head or network of a run."""

EXTERNAL_COLUMNS = [
    *CELL[1:],
    *("strategy", "backbone", "metric", "dataset", "internal", "external", "difference", "ci_low", "ci_high"),
    *("n_images_internal", "n_images_external"),
]

DECISIONS = {"melanoma": ("mel",), "malignant": ("mel", "bcc", "akiec")}
"""Each decision and its target diagnoses; ``malignant`` is malignant or in situ/premalignant."""

BENIGN = ("bkl", "df", "nv", "vasc")
"""Diagnoses for which a flag is a false alarm whatever the target."""

SENSITIVITY = 0.95
"""What the operating point `sensitivity_95` asks of the validation subset."""

DECISION_COLUMNS = [
    *[column for column in METRIC_COLUMNS if column not in ("subgroup", "class", "n_images")],
    *("decision", "point"),
]

CURVE_COLUMNS = [
    *(*CELL, "strategy", "backbone", "decision", "threshold_percent", "net_benefit", "ci_low", "ci_high"),
    *("refer_all", "gain", "gain_low", "gain_high", "n_lesions"),
]

PREVALENCE_COLUMNS = [*CELL, "strategy", "backbone", "decision", "prevalence_percent"]
PREVALENCE_COLUMNS += ["metric", "value", "ci_low", "ci_high"]

RISK_COLUMNS = [*CELL, "strategy", "backbone", "seed", "metric", "value", "ci_low", "ci_high", "n_lesions"]

OUTCOMES = {"melanoma": ("mel",), "other_malignant": ("akiec", "bcc"), "benign": BENIGN}
"""What the lesions are that the probability of melanoma is given to."""

RISK_BIN_COLUMNS = [
    *(*CELL, "strategy", "backbone", "risk_low", "risk_high", "risk", "observed", "ci_low", "ci_high", "n_lesions"),
    *OUTCOMES,
]

ROC_COLUMNS = [
    *CELL,
    *("strategy", "backbone", "seed", "decision", "false_positive_rate", "true_positive_rate", "threshold"),
]

CONTRAST_COLUMNS = [
    *("dataset", "strategy", "backbone", "column", "a", "b"),
    *[column for column in CELL if column != "dataset"],
    *("metric", "value_a", "value_b", "difference", "ci_low", "ci_high", "p", "n_images", "n_lesions"),
]

DUPLICATE_COLUMNS = ["image_id", "nearest_image_id", "ratio"]

DISTANCES = "features/distances.csv"
"""File of the step `distances` below a study's runs (`skin_tl.explain.distances`)."""

DISTANCE_COLUMNS = ["backbone", "preprocessing", "dataset", "split_policy", "seed", "image_id", "distance"]

CONFIDENCES = ("max_probability", "entropy", "disagreement", "distance")
"""Scores of confidence by which a network may abstain (`skin_tl.evaluation.abstention`)."""

ABSTENTION_COLUMNS = [
    *CELL,
    *("strategy", "backbone", "seed", "score", "metric", "value", "ci_low", "ci_high", "n_lesions"),
]

RISK_COVERAGE_COLUMNS = [*CELL, *("strategy", "backbone", "score", "coverage", "risk")]

COVERAGE = 0.9
"""Nominal coverage of conformal prediction sets.  At 0.95, a diagnosis needs 19 validation lesions before any set
can leave it out; dermatofibroma has 15 in HAM10000."""

CONFORMAL_COLUMNS = [
    *CELL,
    *("strategy", "backbone", "seed", "class", "metric", "value", "ci_low", "ci_high", "n_lesions", "verdict"),
]

SHIFT_COLUMNS = [*CELL, *("strategy", "backbone", "metric", "part", "value", "ci_low", "ci_high")]

PRIOR_COLUMNS = [*CELL, *("strategy", "backbone", "dx", "internal", "external", "estimated")]

ROBUSTNESS = "robustness.csv"
"""File of the step `robustness` in a run's folder, and the table that `evaluate` makes of those of all runs."""

ROBUSTNESS_PREDICTIONS = ["kind", "change", "severity", "mask", "image_id", "lesion_id", "dx", *PROBABILITIES]

ROBUSTNESS_COLUMNS = [
    *("strategy", "backbone", "kind", "change", "severity", "metric", "value", "unchanged", "difference"),
    *("ci_low", "ci_high", "n_lesions", "n_released_masks"),
]
