"""``./run_all.sh predict``: predict images of one's own, and print the answers as text or JSON.

Takes paths of images and a study's name; gives text on standard output.
"""

import functools
import json
import os
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from skin_tl.apps.prediction import RUN_OF, Predictions, predict_images
from skin_tl.errors import SkinTLError
from skin_tl.files import ROOT, printable, without_nan
from skin_tl.progress import bar
from skin_tl.schema import CLASSES, PROBABILITIES


def _nearest_of(predictions: Predictions) -> dict[tuple, pd.DataFrame]:
    """Return the known lesions beside each image and run."""
    return dict(list(predictions.neighbours.groupby(RUN_OF, sort=False)))


def _models(predictions: Predictions) -> str:
    """Return where the models are, with BACKBONE for the name of each."""
    strategies = ",".join(predictions.table["strategy"].drop_duplicates())
    strategies = f"{{{strategies}}}" if "," in strategies else strategies
    return f"runs/{predictions.study.name}/{strategies}/BACKBONE/model.keras"


def as_json(predictions: Predictions) -> str:
    """Return predictions as JSON text."""
    found = _nearest_of(predictions)
    images = []
    for image in predictions.images:
        said = []
        for row in predictions.table[predictions.table["image"] == image].to_dict("records"):
            of_run = (image, row["strategy"], row["backbone"])
            nearest = found[of_run].drop(columns=RUN_OF).to_dict("records") if of_run in found else None
            if nearest is None:
                row |= dict.fromkeys(("ood_score", "limit", "unlike"))
            chances = {dx: row[name] for dx, name in zip(CLASSES, PROBABILITIES, strict=True)}
            rest = ("strategy", "backbone", "predicted", "p_malignant", "ood_score", "limit", "unlike")
            seen = {"subset": row["seen"], "image_id": row["seen_as"]} if row["seen"] else None
            said.append(
                {name: row[name] for name in rest} | {"seen": seen, "probabilities": chances, "nearest": nearest}
            )
        images.append({"image": printable(image), "warnings": predictions.warnings(image), "predictions": said})
    content = {
        "study": predictions.study.name,
        "models": {"files": _models(predictions), **predictions.head},
        "warnings": predictions.warnings(),
        "left_out": predictions.left_out or None,
        "images": images,
        "errors": [{"image": printable(image), "error": told} for image, told in predictions.unread.items()],
    }
    return json.dumps(without_nan(content), indent=2, allow_nan=False)  # ASCII, which every terminal has


def as_text(predictions: Predictions, width: int = 80) -> str:
    """Return predictions as tables of plain text, at most `width` columns wide but for the name of an image."""
    from skin_tl.reporting.texts import ENGLISH, NO_BREAK_SPACE

    def wrapped(text, first, rest):
        lines = textwrap.wrap(text, width, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)
        return [line.replace(NO_BREAK_SPACE, " ") for line in lines]

    nearest = _nearest_of(predictions)
    lines = wrapped(f"study {predictions.study.name}: {predictions.study.title}", "", "  ")
    head = {name: ENGLISH(f"{name}.{value}") for name, value in predictions.head.items() if name != "seed"}
    trained = f"seed {predictions.head['seed']}, {', '.join(head.values())}"
    lines += wrapped(f"models: {_models(predictions)} ({trained})", "", "  ")
    for told in predictions.warnings():
        lines += wrapped(told, "", "")
    header = f"  {'backbone':14} {'class':5}" + "".join(f"{dx:>6}" for dx in CLASSES) + f"{'malig':>7}{'unlike':>8}"
    for image in predictions.images:
        rows = predictions.table[predictions.table["image"] == image]
        lines += ["", printable(image)]
        for told in predictions.warnings(image):
            lines += wrapped(f"WARNING: {told}", "  ", "  ")
        for strategy, of_strategy in rows.groupby("strategy", sort=False):
            if len(predictions.study.strategies) > 1:
                lines.append(f"  {strategy}")
            lines.append(header)
            for row in of_strategy.to_dict("records"):
                numbers = "".join(f"{100 * row[name]:6.1f}" for name in PROBABILITIES)
                share = row["ood_score"] / max(row["limit"], 1e-9)  # a dead network sees no difference at all
                unlike = "–" if np.isnan(share) else f"{min(share, 9999):.2f}"
                numbers += f"{100 * row['p_malignant']:7.1f}{unlike:>8}"
                lines.append(f"  {row['backbone']:14} {row['predicted']:5}{numbers}{'!' if row['unlike'] else ''}")
            for row in of_strategy.to_dict("records"):
                if (image, strategy, row["backbone"]) not in nearest:
                    continue  # left out, as is said above
                near = nearest[image, strategy, row["backbone"]].to_dict("records")
                known = (
                    NO_BREAK_SPACE.join([of["image_id"], of["dx"], f"{round(of['distance'], 4):#.2g}"]) for of in near
                )
                lines += wrapped(f"nearest by {row['backbone']}: {', '.join(known)}", "  ", "    ")
    lines.append("")
    legend = "Calibrated probabilities in %; malig: malignant or in situ/premalignant (mel, bcc, akiec)."
    if not predictions.left_out:
        legend += (
            " unlike: distance to the training images, as a share of its limit; above 1, the image is unlike them. "
            "nearest: lesions of these, diagnosis, distance."
        )
    lines += wrapped(legend, "", "")
    return "\n".join(lines)


def show(text: object) -> None:
    """Print a text; where nobody reads on, as behind ``| head``, what is printed from now on goes nowhere."""
    encoding = sys.stdout.encoding or "utf-8"  # which may lack characters of a name
    try:
        print(str(text).encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def predict(
    images: Sequence[str], study: str | None, backbones: Sequence[str], json_wanted: bool, root: Path = ROOT
) -> None:
    """Predict images by the models of a finished study, and print the predictions as text or JSON.

    Parameters
    ----------
    images
        Paths of image files.
    study, backbones, root
        As in `skin_tl.apps.prediction.predict_images`.
    json_wanted
        Whether to print JSON.

    Raises
    ------
    SkinTLError
        If an image cannot be read; the answers for the others are printed before.
    """
    watch = functools.partial(bar, what="predicting", unit="model") if sys.stderr.isatty() else iter
    predictions = predict_images(images, study, backbones, root=root, watch=watch)
    show(as_json(predictions) if json_wanted else as_text(predictions))
    if predictions.unread:
        n_given = len(predictions.unread) + len(predictions.images)
        told = "; ".join(predictions.unread.values())
        raise SkinTLError(
            f"{len(predictions.unread)} of {n_given} images cannot be read: {told}. Replace these "
            "files, or leave them out."
        )
