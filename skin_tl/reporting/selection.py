"""Selections: which rows of the report's tables, and which names, belong to what is shown.

In: the finished runs of a study.  Out: `Selection`, asked by the cells of the report notebook, by the layouts of tables
and by the texts (`skin_tl.reporting.context`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from skin_tl.errors import SkinTLError
from skin_tl.evaluation.predictions import main_arm
from skin_tl.evaluation.scoring import read_evaluation
from skin_tl.evaluation.study_files import (
    TEXTS,
    PublishedStudy,
    Setup,
    StudyFiles,
    read_published,
    read_study_files,
)
from skin_tl.explain.explanations import LEAST_SIDE, explained_head, explanation_tables
from skin_tl.files import ROOT
from skin_tl.reporting.facts import collect_facts
from skin_tl.reporting.pieces import Cells
from skin_tl.reporting.tables import report_tables
from skin_tl.reporting.texts import Labels, format_number, languages
from skin_tl.schema import BASELINES, ENSEMBLE


class Selection:
    """What the report of one study in one language is made of.

    Parameters
    ----------
    study
        The study's name, or the path of ``runs/<study>/study.json``; of ``report/published/<study>/study.json``, to
        write a published report again without the runs.
    language
        A folder below ``report/text/``.
    output
        Folder for the tables.  A folder of runs (``…/runs``, which the workflow gives to every notebook) stands for
        ``report/<study>`` beside it; empty means ``runs/interactive/report/<study>``.
    texts
        Holds the folders of languages.

    Attributes
    ----------
    tables : dict of pandas.DataFrame
        By the name of their CSV file.
    main : skin_tl.evaluation.study_files.Setup
        The set-up that the conclusions rest on.
    curves : list of skin_tl.evaluation.study_files.Setup
        Those that are compared to say what transfer buys; empty in a study that has nothing to compare.
    pictures : bool
        Whether pictures of the data set may be shown: every piece that would hold one asks for it (study key `images`).
    explained : list of skin_tl.evaluation.study_files.Setup
        Those of the models that Grad-CAM was asked about, one per strategy.

    Raises
    ------
    SkinTLError
        If the study has no finished runs, or the language no texts.
    """

    def __init__(self, study: str, language: str = "en", output: str | Path = "", texts: Path = TEXTS):
        if not (texts / language).is_dir():
            known = ", ".join(languages())
            raise SkinTLError(
                f"The report has no language {language!r}: {texts / language} is missing. Choose one of {known}."
            )
        self.files = _read(study)
        self.study = self.files.study
        self.folder = _report_folder(output, self.study.name)
        self.tables = _tables(self.files, self.folder)
        self.facts = collect_facts(self.tables)
        runs = self.tables["runs.csv"]
        self.random_weights = bool((runs["weights"][runs["strategy"] != "from_scratch"] == "random").any())
        self.setups, self.main, self.curves = self.files.setups, self.files.main_setup, self.files.curves
        head = explained_head(self.study)
        policy, preprocessing = head["split_policy"], head["preprocessing"]
        self.explained = [Setup(strategy, policy, preprocessing) for strategy in self.study.strategies]
        self.labels, self.language = Labels(language, texts), language
        self.cells = Cells(self.labels)
        self.published = self.tables["published_results.csv"]["backbone"].unique().tolist()
        self.published_backbones = [name for name in self.study.backbones if name in self.published]
        self.external = self.study.external
        self.pictures = self.study.images
        self.narrowed = [key for key in self.study.overrides if key not in ("images", "title")]
        self.counted = ",.1f" if len(self.study.seeds) > 1 else ",.0f"  # how counts are written, means over the seeds
        self.rates_compared = any(len(self.study.rates(name)) > 1 for name in self.files.tuned)

    @property
    def reproduction(self) -> Setup | None:
        """The set-up that repeats the presentation, where the study has it."""
        setup = Setup("feature_extraction", "image", "unit")
        repeated = setup in self.setups and self.published_backbones and not self.random_weights
        return setup if repeated else None

    def setup_name(self, setup: Setup) -> str:
        """Return a set-up in words; strategies are named where the study has several."""
        words = [self.labels(f"split_policy.{setup.split_policy}"), self.labels(f"preprocessing.{setup.preprocessing}")]
        if len(self.study.strategies) > 1:
            words.insert(0, self.labels(f"strategy.{setup.strategy}"))
        return ", ".join(words)

    def best(self, setup: Setup) -> str:
        """Return the backbone of a set-up that the validation subset selects, by macro F1."""
        return self.facts[f"best.{setup.key}.macro_f1.best"].value

    def ranked(self, setup: Setup, metric: str) -> list[str]:
        """Return the backbones of a set-up, the highest score first."""
        scores = setup.of(self.tables["scores.csv"])
        scores = scores[(scores["metric"] == metric) & (scores["kind"] == "backbone")]
        return scores.sort_values("rank")["backbone"].tolist()

    def compared(self, setup: Setup) -> pd.DataFrame:
        """Return the rows of ``scores.csv`` of a set-up: backbones, the best macro F1 first, ensemble and baselines."""
        table = self.tables["scores.csv"]
        rows = pd.concat([setup.of(table), setup.baselines_of(table)])
        order = [*self.ranked(setup, "macro_f1"), ENSEMBLE, *BASELINES]
        return rows.sort_values("backbone", key=lambda names: names.map(order.index), kind="stable")

    @property
    def other_strategies(self) -> dict[str, pd.DataFrame]:
        """The rows of ``scores.csv`` of the main set-up's backbones under the study's other strategies, by strategy."""
        table, main = self.tables["scores.csv"], self.main
        table = table[table["kind"] == "backbone"]
        names = [name for name in self.study.strategies if name != main.strategy]
        return {name: Setup(name, main.split_policy, main.preprocessing).of(table) for name in names}

    def effects(self, column: str) -> list[tuple[tuple[str, str], pd.DataFrame]]:
        """Return the paired effects of one thing on macro F1, grouped by (strategy, split policy)."""
        table = self.tables["effects.csv"]
        table = table[(table["column"] == column) & (table["metric"] == "macro_f1") & (table["tested"] == "all")]
        return list(table.groupby(["strategy", "split_policy"], sort=False))

    def contrasts(self, metric: str, factor: str) -> Any:
        """Return the comparisons of set-ups that differ in one thing, grouped by (factor, strategy, held level)."""
        table = self.tables["contrasts.csv"]
        table = table[(table["metric"] == metric) & (table["factor"] == factor)]
        return table.groupby(["factor", "strategy", "other"], sort=False)

    def histories(self) -> list[tuple[str, str, pd.DataFrame]]:
        """Return the history of each run's own training: list of (backbone, strategy, rows of ``history.csv``)."""
        runs = main_arm(self.tables["history.csv"]).groupby(["backbone", "strategy"], sort=False)
        return [(*names, rows[rows["stage"] == rows["stage"].iloc[-1]]) for names, rows in runs]

    def own(self, name: str, **values: object) -> pd.DataFrame:
        """Return the rows of a table that belong to the main set-up, on the study's own images by default."""
        table = self.main.of(self.tables[name])
        for column, value in ({"dataset": "internal"} | values).items():
            table = table[table[column] == value] if column in table else table
        return table

    def changed(self, backbone: str | None = None) -> pd.DataFrame:
        """Return the scores of changed images under the main strategy, of one backbone or all."""
        table = self.tables["robustness.csv"]
        table = table[(table["strategy"] == self.main.strategy) & (table["kind"] != "none")]
        return table if backbone is None else table[table["backbone"] == backbone]

    def ece(self, setup: Setup) -> dict[str, float]:
        """Return the expected calibration error of each backbone (and the ensemble) of a set-up."""
        table = setup.of(self.tables["scores.csv"])
        return table[table["metric"] == "ece"].set_index("backbone")["value"].to_dict()

    def risk(self) -> dict[str, dict[str, float]]:
        """Return slope, intercept and Brier score of the probability of melanoma of each backbone and the ensemble."""
        table = self.own("risk.csv", seed="all")
        table = table[table["metric"].isin(["slope", "intercept", "brier"])]
        return table.pivot(index="backbone", columns="metric", values="value").to_dict("index")

    def shown_metric(self, metric: str) -> str:
        """Return the label of a subgroup's metric: its recall is that of melanoma."""
        return "recall_mel" if metric == "recall" else metric

    def overall(self, metric: str, backbone: str) -> float:
        """Return a subgroup's metric for all test images of the main set-up."""
        key = f"{self.main.key}.{backbone}."
        return self.facts[f"class.{key}mel.recall" if metric == "recall" else f"score.{key}{metric}"].value

    def other_splits(self, metric: str) -> pd.DataFrame:
        """Return a score on each further split: backbone, seed, value, n_images."""
        table = self.tables["metrics.csv"]
        table = table[(table["arm"] == "other_split") & (table["metric"] == metric) & (table["class"] == "all")]
        return table[(table["seed"] != "all") & (table["subgroup"] == "all")]

    def has_middle(self, setup: Setup) -> bool:
        """Tell whether any backbone's maps are fine enough for the share that lies in the middle of the picture."""
        return bool((setup.of(self.tables["explained.csv"])["map_side"] >= LEAST_SIDE).any())

    def numbers(self, spec: str = ",d", **keys: str) -> dict[str, str]:
        """Return facts as text for a drawing's words: ``numbers(images="data.all.n_images")``."""
        return {name: format_number(self.facts[key].value, spec, self.language) for name, key in keys.items()}


def _read(study: str) -> StudyFiles | PublishedStudy:
    """Read a study by its name or study.json: a published one, if its facts lie beside that."""
    folder = Path(study).parent
    return read_published(folder) if (folder / "facts.json").is_file() else read_study_files(study)


def _tables(files: StudyFiles | PublishedStudy, folder: Path) -> dict[str, pd.DataFrame]:
    """Return all tables of the report, by the name of their CSV file."""
    if isinstance(files, PublishedStudy):
        return files.tables
    return report_tables(files, read_evaluation(files, folder)) | explanation_tables(files)


def _report_folder(output: str | Path, study: str) -> Path:
    if not output:
        return ROOT / "runs" / "interactive" / "report" / study
    return Path(output).parent / "report" / study if Path(output).name == "runs" else Path(output)
