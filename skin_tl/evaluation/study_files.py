"""Study files: what the finished runs of a study left on disk, read and checked.

Takes ``runs/<study>/``; gives `StudyFiles`, from which `skin_tl.evaluation.scoring` computes scores and
`skin_tl.reporting` writes the report.  Takes ``report/published/<study>/`` too; gives `PublishedStudy`, of which the
report is written again.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from skin_tl.errors import SkinTLError
from skin_tl.evaluation.metrics import point_metrics
from skin_tl.evaluation.predictions import main_arm, read_predictions, read_table
from skin_tl.files import ROOT, read_json
from skin_tl.schema import DISTANCE_COLUMNS, DISTANCES, EVALUATED, ROBUSTNESS, SETUP, TUNED
from skin_tl.study import Study, check_study, command_of

TEXTS = ROOT / "report" / "text"
"""The sources of the report's words, with the tables of published numbers beside them."""


@dataclass(frozen=True, order=True)
class Setup:
    """The conditions of a comparison: transfer strategy, split policy and preprocessing."""

    strategy: str
    split_policy: str
    preprocessing: str

    @property
    def key(self) -> str:
        """Name of the set-up inside the keys of facts, for example ``feature_extraction.lesion.native``."""
        return f"{self.strategy}.{self.split_policy}.{self.preprocessing}"

    def of(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of `table` that belong to this set-up."""
        return table[(table[SETUP] == [self.strategy, self.split_policy, self.preprocessing]).all(axis=1)]

    def baselines_of(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of `table` that belong to the baselines under the same split policy."""
        return table[(table["strategy"] == "baseline") & (table["split_policy"] == self.split_policy)]


def main_setup(study: Study, validated: pd.DataFrame) -> Setup:
    """Return the set-up that the conclusions of a study rest on.

    A split by lesion and native scaling, where the study has them, and of the strategies that transfer (training from
    scratch is what they are compared with) the one under which the best backbone has the highest macro F1 on the
    validation subset, mean over the seeds: the test subset has no say in it.

    Parameters
    ----------
    validated
        Columns `SETUP` and val_macro_f1.
    """
    policies, preprocessings = study.split_policies, study.preprocessings
    policy = "lesion" if "lesion" in policies else policies[0]
    preprocessing = "native" if "native" in preprocessings else preprocessings[0]
    strategies = [name for name in study.strategies if name != "from_scratch"] or study.strategies
    setups = [Setup(strategy, policy, preprocessing) for strategy in strategies]
    return max(setups, key=lambda setup: setup.of(validated)["val_macro_f1"].max())


class Conditions:
    """What follows from the settings of a study and its main set-up, wherever its results come from."""

    study: Study

    @property
    def main_setup(self) -> Setup:
        """The set-up that the conclusions rest on, see `main_setup`."""
        raise NotImplementedError

    @property
    def setups(self) -> list[Setup]:
        """The set-ups of the study in its own order."""
        return [
            Setup(strategy, policy, preprocessing)
            for strategy in self.study.strategies
            for policy in self.study.split_policies
            for preprocessing in self.study.preprocessings
        ]

    @property
    def curves(self) -> list[Setup]:
        """The set-ups whose learning curves stand beside each other: the main one, and the same under other strategies.

        Empty where a study has one strategy and one share of the training lesions: there is nothing to put beside.
        """
        if len(self.study.strategies) == 1 and len(self.study.train_fractions) == 1:
            return []
        main = self.main_setup
        return [Setup(name, main.split_policy, main.preprocessing) for name in self.study.strategies]

    @property
    def tuned(self) -> list[str]:
        """The study's strategies that train whole networks."""
        return [name for name in self.study.strategies if name in TUNED]


@dataclass(frozen=True)
class PublishedStudy(Conditions):
    """A published study, without its runs.

    Attributes
    ----------
    study
    tables
        All tables of its report, by the name of their CSV file; `seed` is text.
    """

    study: Study
    tables: dict[str, pd.DataFrame]

    @cached_property
    def main_setup(self) -> Setup:
        """The set-up that the conclusions rest on, see `main_setup`."""
        return main_setup(self.study, self.tables["setups.csv"].query("metric == 'macro_f1'"))


@dataclass(frozen=True)
class StudyFiles(Conditions):
    """What the finished runs of one study left on disk.

    Attributes
    ----------
    root
        Folder that holds ``runs/`` and ``report/``.
    study
    images
        ``dataset/images.json``.
    metadata, splits
        ``dataset/metadata.csv`` (one row per image) and ``dataset/splits.csv``.
    runs
        ``run.json`` by (strategy, backbone).
    predictions
        Those of all runs, checked, one below the other, with the columns strategy and backbone: backbones, ensembles
        and baselines (`skin_tl.schema.kind_of` tells which).
    history
        Those of the backbones' runs.
    """

    root: Path
    study: Study
    images: dict
    metadata: pd.DataFrame
    splits: pd.DataFrame
    runs: dict
    predictions: pd.DataFrame
    history: pd.DataFrame

    @property
    def folder(self) -> Path:
        """Folder of the study's runs."""
        return self.root / "runs" / self.study.name

    @cached_property
    def main_setup(self) -> Setup:
        """The set-up that the conclusions rest on, see `main_setup`."""
        return main_setup(self.study, self.validated)

    @cached_property
    def validated(self) -> pd.DataFrame:
        """Macro F1 of each backbone on the validation subset, by which one is selected.

        A table with strategy, split_policy, preprocessing, backbone and val_macro_f1, the mean over the seeds;
        backbones in the study's order.
        """
        rows = main_arm(self.predictions)
        rows = rows[(rows["subset"] == "val") & rows["backbone"].isin(self.study.backbones)]
        keys = [*SETUP, "backbone"]
        found = {
            key: point_metrics(part, ["confusion"])["macro_f1", "all"]
            for key, part in rows.groupby([*keys, "seed"], sort=False)
        }
        means = pd.Series(found).groupby(level=list(range(len(keys))), sort=False).mean()
        return means.rename_axis(keys).reset_index(name="val_macro_f1")

    @property
    def n_duplicates(self) -> int:
        """How many external images look like images of the study; 0 without an external test set."""
        file = self.folder / "external" / "duplicates.csv"
        return len(pd.read_csv(file)) if self.study.external else 0

    @cached_property
    def distances(self) -> pd.DataFrame:
        """How far images lie from the training images in feature space, columns `DISTANCE_COLUMNS`.

        Empty for a study without frozen backbones, and where a run of an earlier version did not compute them.
        """
        file = self.folder / DISTANCES
        if not file.is_file():
            return pd.DataFrame(columns=DISTANCE_COLUMNS)
        return read_table(file, command_of(self.study.name))

    @cached_property
    def robustness(self) -> dict[tuple[str, str], pd.DataFrame]:
        """What networks predict for changed test images, by strategy and backbone; empty where it was not asked."""
        command = command_of(self.study.name)
        runs = self.runs if self.study.robustness else ()
        return {names: read_table(self.folder / Path(*names) / ROBUSTNESS, command) for names in runs}


def read_study_files(study: str | Path, root: Path = ROOT) -> StudyFiles:
    """Read what the runs of a study left.

    Parameters
    ----------
    study
        Its name, or the path of ``…/runs/<name>/study.json``.
    root
        Folder that holds ``runs/``, where a name is given.

    Raises
    ------
    SkinTLError
        If the study has no finished runs, or one of its files is missing.
    """
    folder = root / "runs" / study
    if Path(study).name == "study.json":
        folder = Path(study).resolve().parent
        root, study = folder.parent.parent, folder.name
    command = command_of(str(study))
    if not (folder / "study.json").is_file():
        raise SkinTLError(f"The study {study!r} has no runs in {folder}. Run `{command}` first.")
    asked = check_study(read_json(folder / "study.json", command), source=folder / "study.json")
    splits = read_table(folder / "dataset" / "splits.csv", command)
    runs, predictions, history = {}, [], []
    for strategy in asked.strategies:
        for backbone in asked.backbones:
            run, names = folder / strategy / backbone, {"strategy": strategy, "backbone": backbone}
            runs[strategy, backbone] = read_json(run / "run.json", command)
            predictions.append(run_predictions(asked, run, splits, command).assign(**names))
            history.append(read_table(run / "history.csv", command).assign(**names))
    for group, name in asked.pseudo_runs:
        file = folder / group / name / "predictions.csv"
        predictions.append(read_predictions(file, splits, command).assign(strategy=group, backbone=name))
    return StudyFiles(
        root=root,
        study=asked,
        images=read_json(folder / "dataset" / "images.json", command),
        metadata=read_table(folder / "dataset" / "metadata.csv", command, na_filter=False, dtype=str),
        splits=splits,
        runs=runs,
        predictions=pd.concat(predictions, ignore_index=True),
        history=pd.concat(history, ignore_index=True),
    )


def read_published(folder: Path) -> PublishedStudy:
    """Read a published study.

    Parameters
    ----------
    folder
        ``report/published/<study>``, or a copy of it.

    Raises
    ------
    SkinTLError
        If one of its tables is missing, as those are that came with a later version than it was published by.
    """
    command = f"./run_all.sh publish {folder.name}"
    study = check_study(read_json(folder / "study.json", command), source=folder / "study.json")
    names = [*EVALUATED, *(name for name in study.report_files if name.endswith(".csv"))]
    tables = {name: read_table(folder / name, command, dtype={"seed": str}) for name in names}
    return PublishedStudy(study=study, tables=tables)


def run_predictions(study: Study, run: Path, splits: pd.DataFrame, made_by: str) -> pd.DataFrame:
    """Read and check the predictions of a backbone's run: on the study's own images, and on each external test set.

    Parameters
    ----------
    study
        Its settings.
    run
        Folder of the run.
    splits
    made_by
        The command that errors name.
    """
    names = ["predictions.csv", *([f"predictions_{study.external}.csv"] if study.external else [])]
    return pd.concat([read_predictions(run / name, splits, made_by) for name in names], ignore_index=True)


def published_results() -> pd.DataFrame:
    """Return the presentation's classification reports: backbone, row, precision, recall, f1_score, support, source."""
    return pd.read_csv(TEXTS / "published_results.csv")
