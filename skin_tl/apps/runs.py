"""Finished runs: which study and which runs a person means, and their models.

Takes the name of a study or nothing; gives `Run` records, and Keras models read from them.
"""

import functools
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from skin_tl.errors import SkinTLError
from skin_tl.evaluation.predictions import validation_rows, where
from skin_tl.explain.explanations import explained_head
from skin_tl.files import ROOT, read_json
from skin_tl.progress import standard_error_to
from skin_tl.schema import CLASSES
from skin_tl.study import Study, check_study, command_of, load_study

if TYPE_CHECKING:
    import keras

RUN_FILES = ("run.json", "model.keras", "predictions.csv")
"""What a run needs to predict with; a run that has them all is finished."""

REPORT = "its report"
"""What a study lacks all of whose runs are finished, in the words of a warning."""

LEFT_OUT = (
    "Left out, because the images of the study are not at hand: the nearest lesions, whether an image is unlike the "
    "training images or is one of them, and the check that model.keras gives the probabilities of predictions.csv"
)
"""What needs the images of the data set; probabilities do not."""


# --- Which study, which runs ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes
    ----------
    folder
    strategy, backbone
    finished
        When, as its record has it.
    """

    folder: Path
    strategy: str
    backbone: str
    finished: str

    @property
    def study_folder(self) -> Path:
        """Folder of the study that it belongs to."""
        return self.folder.parent.parent

    @cached_property
    def record(self) -> dict[str, Any]:
        """``run.json``."""
        return read_json(self.folder / "run.json")

    @cached_property
    def study(self) -> Study:
        """The study as it was when the run was trained."""
        return check_study(self.record.get("parameters", {}), source=self.folder / "run.json")

    @property
    def random_weights(self) -> bool:
        """Whether its backbone has random weights in place of those pretrained on ImageNet."""
        return bool(self.record.get("random_weights")) and self.strategy != "from_scratch"

    def split(self) -> pd.DataFrame:
        """Return the split of the head in ``model.keras``, rows of ``splits.csv``.

        Raises
        ------
        SkinTLError
            If it is another than the one that the run was trained with.
        """
        from skin_tl.data.preparation import read_splits
        from skin_tl.data.splits import split_fingerprints  # which brings scikit-learn

        policy, _, seed = explained_head(self.study).values()
        split = where(read_splits(self.study_folder), split_policy=policy, seed=seed)
        drawn, trained = split_fingerprints(split), self.record["split_fingerprints"]
        if drawn.get(policy, {}).get(str(seed)) != trained[policy][str(seed)]:
            again = command_of(self.study_folder.name)
            raise SkinTLError(f"{self.folder} was trained with another split. Run `{again}` again.")
        return split

    def validation(self, predictions: pd.DataFrame) -> pd.DataFrame:
        """Return what the head in ``model.keras`` predicted for its validation subset, of the run's predictions."""
        head = explained_head(self.study)
        return where(validation_rows(predictions, {"arm": "main", "train_fraction": 1.0, **head}), seed=head["seed"])


def load_keras() -> None:
    """Import Keras and its backend, and keep from the terminal what their libraries say of the processor meanwhile.

    If the import fails, it is said after all.
    """
    if "keras" in sys.modules:
        return
    with tempfile.TemporaryFile() as said:
        try:
            with standard_error_to(said):
                from skin_tl.models.backbones import import_keras

                import_keras()
        except BaseException:
            said.seek(0)
            os.write(2, said.read())
            raise


def _is_finished(run: Path) -> bool:
    return all((run / name).is_file() for name in RUN_FILES)


def _missing_runs(folder: Path, study: Study) -> list[str]:
    """List the runs of a study that are not finished, as ``strategy/backbone``."""
    names = [f"{strategy}/{backbone}" for strategy in study.strategies for backbone in study.backbones]
    return [name for name in names if not _is_finished(folder / name)]


def lacking_runs(folder: Path, study: Study) -> list[str]:
    """List what a study lacks to be finished: runs, as ``strategy/backbone``, or else its report.

    A report that is older than a run is that of an earlier start.
    """
    missing = _missing_runs(folder, study)
    report = folder.parent.parent / "report" / folder.name / "report.html"
    if missing or not report.is_file():
        return missing or [REPORT]
    try:
        last = datetime.fromisoformat(max(run.finished for run in finished_runs(folder))).timestamp()
    except ValueError:
        return [REPORT]
    return [] if report.stat().st_mtime >= int(last) else [REPORT]


def _steps_from_finished(folder: Path) -> int:
    """Tell how far a study is from its end: 0 finished, 1 without its report, 2 without runs or not to be read."""
    try:
        lacking = lacking_runs(folder, load_study(folder / "study.json"))
    except SkinTLError:
        return 2
    return 0 if not lacking else 1 if lacking == [REPORT] else 2


def finished_runs(folder: Path, backbones: Sequence[str] | None = None) -> list[Run]:
    """List the finished runs of a study, in its order.

    Parameters
    ----------
    folder
        The study's folder below ``runs/``.
    backbones
        Only these.

    Raises
    ------
    SkinTLError
        If there is none, or none of a backbone that is asked for; the message lists those that there are.
    """
    study = load_study(folder / "study.json")
    runs = []
    for strategy in study.strategies:
        for backbone in study.backbones:
            run = folder / strategy / backbone
            if _is_finished(run):
                runs.append(Run(run, strategy, backbone, str(read_json(run / "run.json").get("finished", ""))))
    if not runs:
        raise SkinTLError(f"The study {study.name!r} has no finished run. Run `{command_of(study.name)}` first.")
    there = list(dict.fromkeys(run.backbone for run in runs))
    for name in backbones or ():
        if name not in there:
            near = [known for known in there if known.lower() == name.lower()]
            hint = f", did you mean {near[0]!r}?" if near else "."
            raise SkinTLError(
                f"The study {study.name!r} has no finished run of {name!r}{hint} Name one of {', '.join(there)}."
            )
    return [run for run in runs if not backbones or run.backbone in backbones]


def find_study(study: str | Path | None = None, root: Path = ROOT) -> Path:
    """Return the folder of a study below ``runs/``.

    Parameters
    ----------
    study
        Its name, or the path of its ``study.json`` or YAML file; otherwise the finished study, all of whose runs and
        whose report are there, whose last run finished last.  Only if none is finished, one that lacks its report, and
        only then one that lacks runs.
    root
        Folder that holds ``runs/``.

    Raises
    ------
    SkinTLError
        If it has no runs; the message lists the studies that have.
    """
    runs, study = root / "runs", None if study is None else str(study)
    if study is not None and Path(study).name == "study.json":
        return Path(study).resolve().parent
    if study is not None and Path(study).suffix in (".yaml", ".yml"):
        study = load_study(study).name
    finished: dict[str, str] = {}
    for record in runs.glob("*/*/*/run.json"):
        if _is_finished(record.parent):
            name, when = record.parts[-4], str(read_json(record).get("finished", ""))
            finished[name] = max(when, finished.get(name, ""))
    advice = "No study has finished runs. Run `./run_all.sh` (the demo) or `./run_all.sh STUDY` first."
    if finished:
        advice = f"Name another study. Studies with finished runs: {', '.join(sorted(finished))}."
    if study is None:
        if not finished:
            raise SkinTLError(f"{runs}: {advice}")
        study = max(finished, key=lambda name: (-_steps_from_finished(runs / name), finished[name], name))
    elif study not in finished:
        if not ((root / "studies" / f"{study}.yaml").is_file() or (runs / study / "study.json").is_file()):
            raise SkinTLError(f"No study is named {study!r}. {advice}")
        another = f" {advice}" if finished else ""
        raise SkinTLError(f"The study {study!r} has no finished run. Run `{command_of(study)}` first.{another}")
    return runs / study


def read_model(run: Run, size: int, name: str = "model.keras") -> tuple["keras.Model", "keras.Model", "keras.Model"]:
    """Read a run's model, or one of its networks below ``models/``.

    Returns
    -------
    whole, body, head : keras.Model
        From pixels to probabilities; its two parts, from pixels to features and from features to probabilities.

    Raises
    ------
    SkinTLError
        If it cannot be read or is not of that form; the message names the versions.
    """
    from skin_tl.models.backbones import features_model, head_layers, import_keras

    keras = import_keras()

    file = run.folder / name
    try:
        whole = keras.models.load_model(file, compile=False)
        shaped = whole.input_shape[1:] == (size, size, 3) and whole.output_shape[1:] == (len(CLASSES),)
        if not shaped or not any(isinstance(layer, keras.Model) for layer in whole.layers):
            raise ValueError(f"it takes {whole.input_shape[1:]}, gives {whole.output_shape[1:]}")
        body = features_model(whole)
        given = keras.Input(body.output_shape[1:])
        head = keras.Model(given, functools.reduce(lambda values, layer: layer(values), head_layers(whole), given))
    except Exception as error:  # zipfile, h5py and Keras raise many types for a wrong file
        from skin_tl.models.runs import versions

        written, here = run.record.get("versions", {}), versions()
        told = [
            " and ".join(f"{name} {of.get(name.lower(), 'unknown')}" for name in ("Keras", "skin-tl"))
            for of in (written, here)
        ]
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise SkinTLError(
            f"{file} cannot be used ({reason}). It was written by {told[0]}; here are {told[1]}. "
            f"Delete {run.folder / 'run.json'} and run `{command_of(run.study_folder.name)}`: that trains it again."
        ) from None
    return whole, body, head
