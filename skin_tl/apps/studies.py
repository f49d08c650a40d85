"""Studies: finished runs of a study, found and read for looking at, or made in a minute.

Takes a study's name; gives its folder (``runs/<study>``, or ``runs/interactive/<study>`` of runs made by hand) and
`Runs`: splits, metadata and predictions of all its runs.
"""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from skin_tl.data import preparation
from skin_tl.data.images import ImageSet
from skin_tl.errors import SkinTLError
from skin_tl.evaluation.predictions import main_arm, read_predictions
from skin_tl.files import ROOT, read_json
from skin_tl.models import runs
from skin_tl.study import Study, check_study, command_of, load_study, save_study

QUICK = {"backbones": ["MobileNetV2", "ResNet50"], "leakage": False, "other_splits": 0}
"""What a quick run changes in a study: two backbones to compare, no experiments."""


@dataclass(frozen=True)
class Runs:
    """The finished runs of one study, read for looking at.

    Attributes
    ----------
    folder
    study
    metadata
        Indexed by image_id.
    splits
    predictions
        Those of all runs on the study's own images (arm ``main``, all of the training subset), with the columns
        strategy and backbone.
    """

    folder: Path
    study: Study
    metadata: pd.DataFrame
    splits: pd.DataFrame
    predictions: pd.DataFrame

    @property
    def images(self) -> ImageSet:
        """The decoded images."""
        return preparation.read_images(self.folder)

    @property
    def random_weights(self) -> bool:
        """Whether the backbones have random weights."""
        return read_json(self.folder / "weights.json")["source"] == "random"


def finished_studies(root: Path = ROOT) -> dict[str, Path]:
    """Return the folders of studies that have a finished run, by name; those made by hand as ``interactive/<name>``."""
    folders = {path.name: path for path in sorted((root / "runs").glob("*"))}
    folders |= {f"interactive/{path.name}": path for path in sorted((root / "runs" / "interactive").glob("*"))}
    return {name: folder for name, folder in folders.items() if _run_files(folder)}


def _run_files(folder: Path) -> list[Path]:
    """Return the predictions.csv of each run below a study's folder, once its splits are there too."""
    if not (folder / "dataset" / "splits.csv").is_file():
        return []
    return sorted(file for file in folder.glob("*/*/predictions.csv") if not file.parent.name.startswith("."))


def study_folder(study: str, output: str | Path = "runs/interactive", root: Path = ROOT) -> Path | None:
    """Return the folder with the finished runs of a study, None where there is no finished run.

    Parameters
    ----------
    study
        A name below ``runs/``, or the path of a ``study.json``.
    output
        Folder of runs made by hand, which is looked at next.
    root
        Folder that holds ``runs/``.
    """
    given = Path(study)
    if given.name == "study.json":
        candidates = [given.resolve().parent]
    else:
        candidates = [root / "runs" / study, root / output / given.stem]
    return next((folder for folder in candidates if _run_files(folder)), None)


def open_runs(folder: Path) -> Runs:
    """Read the finished runs of a study, ``runs/<study>`` or ``runs/interactive/<study>``.

    Raises
    ------
    SkinTLError
        If there is no finished run, or a file of one is not what it should be.
    """
    command, files = command_of(folder.name), {}
    for file in _run_files(folder):
        files[file.parent.parent.name, file.parent.name] = file
    if not files:
        raise SkinTLError(f"{folder} holds no finished run. Run `{command}` first.")
    study = _study_of(folder, list(files.values()))
    wanted = [(strategy, name) for strategy in study.strategies for name in study.backbones] + study.pseudo_runs
    splits, tables = preparation.read_splits(folder), []
    for strategy, backbone in wanted:
        if (strategy, backbone) in files:  # a narrowed study leaves the runs of others where they are
            table = main_arm(read_predictions(files[strategy, backbone], splits, command))
            tables.append(table[table["dataset"] == "internal"].assign(strategy=strategy, backbone=backbone))
    metadata = preparation.read_metadata_table(folder).set_index("image_id")
    return Runs(folder, study, metadata, splits, pd.concat(tables, ignore_index=True))


def _study_of(folder: Path, files: list[Path]) -> Study:
    """Return the study of some runs: study.json, which runs made by hand get from what they note of themselves."""
    if folder.parent.name != "interactive":
        return load_study(folder / "study.json")
    records = [file.with_name("run.json") for file in files if file.with_name("run.json").is_file()]
    if not records:
        raise SkinTLError(f"{folder} holds no run.json. Delete the folder, and run notebooks/2_train.ipynb again.")
    about = [read_json(record) for record in records]
    strategies, backbones = (list(dict.fromkeys(one[key] for one in about)) for key in ("strategy", "backbone"))
    # Experiments are not shown, and some strategies have none.
    found = {"strategies": strategies, "backbones": backbones, "leakage": False, "other_splits": 0}
    study = check_study(about[0]["parameters"], found, source=records[0])
    study = study.model_copy(update={"overrides": about[0]["parameters"].get("overrides", [])})
    save_study(study, folder / "study.json")
    return study


def quick_run(study: str, output: str | Path = "runs/interactive", root: Path = ROOT) -> Path:
    """Return the folder of a study's finished runs; without any, train two backbones on synthetic images first.

    Parameters
    ----------
    study
        A name below ``studies/``, or the path of a study's file.
    output
        The folder of runs to write into.
    root
        Folder that holds ``runs/``.

    Raises
    ------
    SkinTLError
        If the study is one of photographs: it takes too long to be started by looking at it.
    """
    if (folder := study_folder(study, output, root)) is not None:
        return folder
    if not (asked := load_study(study)).synthetic:
        raise SkinTLError(f"The study {asked.name!r} has no finished run. Run `./run_all.sh {study}` first.")
    from skin_tl.models.training import train_run

    asked = load_study(study, QUICK)
    folder = root / output / asked.name
    data = runs.prepare(asked, folder)
    save_study(asked, folder / "study.json")
    for strategy in asked.strategies:
        for backbone in asked.backbones:
            train_run(asked, strategy, backbone, data, folder / strategy / backbone)
    return folder
