"""Figures: from tables to pictures, in one visual language.

In: pandas DataFrames of the report (and decoded images for `example_grid`), each with the columns that its docstring
names, and the labels of a language, English by default.  Out: `Drawing`, a matplotlib figure that shows itself in a
notebook, or a list of them where panels stand beside each other in a grid that follows the width of the page.

Every diagnosis and every backbone has one colour (and marker) everywhere; all colours can be told apart with the common
forms of colour blindness.  Figures are called by the name of this package, one module each for a family of them; theme
and helpers are in `skin_tl.reporting.drawing`.
"""

from skin_tl.reporting.drawing import DIAGNOSES, Drawing, backbone_style, to_svg
from skin_tl.reporting.figures.benefit import decision_curves, risk
from skin_tl.reporting.figures.comparisons import contrast, effects, external, rank_changes, split_spread
from skin_tl.reporting.figures.data_set import (
    choose_examples,
    class_balance,
    example_grid,
    example_pictures,
    explained_picture,
    under_map,
)
from skin_tl.reporting.figures.decisions import calibration, operating_points, roc
from skin_tl.reporting.figures.explaining import cnn_operations, transfer
from skin_tl.reporting.figures.flow import flow
from skin_tl.reporting.figures.robustness import corruptions, shortcuts
from skin_tl.reporting.figures.scores import class_scores, confusion_matrix, published, published_classes, scores
from skin_tl.reporting.figures.subgroups import subgroups
from skin_tl.reporting.figures.training import feature_maps, learning_curves, training_curves
from skin_tl.reporting.figures.trust import prediction_sets, risk_coverage

__all__ = ["DIAGNOSES", "Drawing", "backbone_style", "to_svg"]
__all__ += ["choose_examples", "class_balance", "cnn_operations", "example_grid", "example_pictures", "transfer"]
__all__ += ["class_scores", "confusion_matrix", "explained_picture", "published", "scores", "under_map"]
__all__ += ["calibration", "contrast", "effects", "external", "published_classes", "rank_changes", "split_spread"]
__all__ += ["feature_maps", "flow", "learning_curves", "operating_points", "roc", "subgroups", "training_curves"]
__all__ += ["prediction_sets", "risk_coverage"]
__all__ += ["corruptions", "decision_curves", "risk", "shortcuts"]
