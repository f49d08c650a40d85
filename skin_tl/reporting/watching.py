"""Watching: how far a network has come, for a person who waits for it.

Takes what a network has reached after each epoch: a row of its history, and its confusion matrix on the validation
subset; gives a log for TensorBoard (``./run_all.sh tensorboard``) and, in a notebook, curves that follow the training.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from tensorboardX import SummaryWriter

from skin_tl.reporting import figures
from skin_tl.schema import CLASSES

SCALARS = ("loss", "accuracy", "macro_f1")
"""What is logged of the training and of the validation subset."""


class EpochLog:
    """TensorBoard's log of one network.

    It is written again from the checkpoint wherever a training begins or goes on, so that no epoch is in it twice.

    Parameters
    ----------
    folder
        Of this network alone; what an earlier start wrote there is replaced.
    backbone
        Title of the confusion matrices.
    history
        Rows of the epochs that are behind it, see `add`.
    confusions
        Their confusion matrices.
    """

    def __init__(
        self, folder: Path, backbone: str, history: Sequence[dict[str, Any]] = (), confusions: Sequence[np.ndarray] = ()
    ):
        shutil.rmtree(folder, ignore_errors=True)
        self.writer, self.backbone = SummaryWriter(str(folder)), backbone
        for row, confusion in zip(history, confusions, strict=True):
            self.add(row, confusion)

    def add(self, row: dict[str, Any], confusion: np.ndarray) -> None:
        """Log an epoch.

        Parameters
        ----------
        row
            epoch (from 1), loss, accuracy, macro_f1, and these with ``val_``.
        confusion
            (7, 7) images of the validation subset by diagnosis and predicted diagnosis.
        """
        for name in SCALARS:
            for subset, key in (("training", name), ("validation", f"val_{name}")):
                self.writer.add_scalar(f"{name}/{subset}", row[key], row["epoch"])
        image = _confusion_image(np.asarray(confusion), self.backbone)
        self.writer.add_image("confusion_matrix/validation", image, row["epoch"], dataformats="HWC")
        self.writer.flush()

    def close(self) -> None:
        """Write what is not yet in the file."""
        self.writer.close()


def _confusion_image(confusion: np.ndarray, backbone: str) -> np.ndarray:
    """Draw a confusion matrix, (height, width, 3) uint8."""
    counts = pd.DataFrame(confusion, pd.Index(CLASSES, name="dx"), pd.Index(CLASSES, name="predicted"))
    table = counts.stack().rename("n_images").reset_index().assign(backbone=backbone)
    table["share"] = table["n_images"] / table.groupby("dx")["n_images"].transform("sum").replace(0, np.nan)
    with io.BytesIO() as file:
        figures.confusion_matrix(table).savefig(file, format="png", dpi=110)
        return np.asarray(Image.open(file).convert("RGB"))


class LiveCurves:
    """Curves in a notebook's output that are drawn again after each epoch, and go when the training has ended.

    Parameters
    ----------
    backbone, strategy
    """

    def __init__(self, backbone: str, strategy: str):
        self.backbone, self.strategy, self.shown = backbone, strategy, None

    def __call__(self, history: pd.DataFrame | None) -> None:
        """Draw a history; None ends it.

        Parameters
        ----------
        history
            As `skin_tl.models.training.train_run` gives it, of the networks trained so far.
        """
        from IPython.display import HTML, display

        drawing: object = HTML("")
        if history is not None:
            drawing = figures.training_curves(history, title=self.backbone, strategy=self.strategy)
        if self.shown:
            self.shown.update(drawing)
        elif history is not None:
            self.shown = display(drawing, display_id=True)
