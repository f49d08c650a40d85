"""A study's runs: the files that one step writes and another reads.

Takes a study and its folder ``runs/<study>``; gives what a training run needs (`Prepared`), made or read back.
"""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from joblib import cpu_count

from skin_tl.data.images import ImageSet
from skin_tl.data.preparation import (
    prepare_images,
    prepare_splits,
    read_experiments,
    read_images,
    read_metadata_table,
    read_splits,
)
from skin_tl.data.splits import split_fingerprints
from skin_tl.files import ROOT, read_json, write_csv, write_json
from skin_tl.models.backbones import resolve_weights

if TYPE_CHECKING:
    from skin_tl.study import Study


PACKAGES = ("keras", "tensorflow", "jax", "torch", "numpy", "scikit-learn", "pandas", "pillow", "skin-tl")
"""Packages whose versions a run's record names."""


@dataclass(frozen=True)
class Prepared:
    """What a training run needs besides the study.

    Attributes
    ----------
    metadata
        The checked table, sorted by image id.
    experiments
        Splits of what the study trains beside its own heads, see `skin_tl.data.splits.draw_experiments`.
    weights
        What `skin_tl.models.backbones.resolve_weights` returned; empty where a workflow trains from random weights
        before it.
    features
        What earlier steps said of the features that they computed, see `skin_tl.models.heads.Job`.
    """

    metadata: pd.DataFrame
    splits: pd.DataFrame
    experiments: pd.DataFrame
    images: ImageSet
    weights: dict
    features: dict = field(default_factory=dict)


def prepare(study: Study, folder: Path, made: bool = False) -> Prepared:
    """Return what a training run needs.

    Parameters
    ----------
    folder
        The study's folder below ``runs/``.
    made
        True reads what earlier steps of the workflow wrote; False makes it (what the cache holds is not computed
        again).
    """
    if made:
        metadata, images = read_metadata_table(folder), read_images(folder)
        splits, experiments = read_splits(folder), read_experiments(folder)
        file = folder / "weights.json"  # for which training from random weights does not wait
        features = {about.stem: read_json(about) for about in (folder / "features").glob("*.json")}
        return Prepared(metadata, splits, experiments, images, read_json(file) if file.is_file() else {}, features)
    weights = prepare_weights(study, folder)
    metadata, images = prepare_images(study, folder)
    splits, experiments = prepare_splits(study, metadata, folder)
    return Prepared(metadata, splits, experiments, images, weights)


def prepare_weights(study: Study, folder: Path) -> dict[str, Any]:
    """Resolve the weights of the study's backbones and write weights.json."""
    weights = resolve_weights(study.backbones, study.weights if study.transfers else "none")
    write_json(folder / "weights.json", weights)
    return weights


def weights_note(weights: dict, strategy: str = "feature_extraction") -> str:
    """Say in one sentence which weights a run begins with.

    Parameters
    ----------
    weights
        What `skin_tl.models.backbones.resolve_weights` returned.
    """
    if strategy == "from_scratch":
        return "Random weights: nothing is transferred."
    if weights["source"] == "random":
        return f"Random weights, not ImageNet's: {weights['reason']}. The scores show what untrained networks give."
    return "ImageNet weights."


def run_record(
    study: Study, strategy: str, backbone: str, data_fingerprint: str, splits: pd.DataFrame, started: datetime
) -> dict[str, Any]:
    """Return what every ``run.json`` holds, as a dict.

    Parameters
    ----------
    data_fingerprint
        Key of the decoded images.
    started
        In UTC.
    """
    return {
        "study": study.name,
        "strategy": strategy,
        "backbone": backbone,
        "parameters": study.model_dump(),
        "synthetic_data": study.synthetic,
        "git_commit": git_commit(),
        "data_fingerprint": data_fingerprint,
        "split_fingerprints": split_fingerprints(splits),
        "versions": versions(),
        "n_cores": cpu_count(),
        "started": started.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def write_pseudo_run(
    study: Study, folder: Path, strategy: str, name: str, predictions: pd.DataFrame, started: datetime
) -> None:
    """Write the run of a baseline or an ensemble: predictions.csv and run.json, as a backbone's run has them.

    Parameters
    ----------
    folder
        The study's folder below ``runs/``.
    strategy, name
        Of `skin_tl.study.Study.pseudo_runs`.
    predictions
        Columns of ``predictions.csv``.
    started
        In UTC.
    """
    run = folder / strategy / name
    write_csv(run / "predictions.csv", predictions)
    record = run_record(study, strategy, name, read_images(folder).key, read_splits(folder), started)
    seconds = (datetime.now(UTC) - started).total_seconds()
    write_json(run / "run.json", record | {"timings": {"heads_s": round(seconds, 3)}})


def git_commit() -> str:
    """Return the project's commit, with ``-dirty`` where tracked files differ, or ``unknown`` outside git."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
