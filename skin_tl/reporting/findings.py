"""Findings: what README.md says of the published studies, every number of it a cell of their tables.

Takes ``report/published/<study>/`` (study.json, facts.json, setups.csv, runs.csv) and the template ``readme.md.j2``
beside this module; gives the generated blocks of README.md.
"""

from __future__ import annotations

import html
import re
import textwrap
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from skin_tl.errors import SkinTLError
from skin_tl.evaluation.study_files import Setup, main_setup
from skin_tl.files import ROOT, read_json
from skin_tl.reporting.texts import ENGLISH, Labels, templates
from skin_tl.schema import CONFIDENCE, ENSEMBLE
from skin_tl.study import backbones_left_out, check_study, command_of

ORDER = ("presentation", "ham10000", "fine_tuning", "transfer")
"""In which studies are listed; others follow by name."""

WITHOUT_WEIGHTS = ("EfficientNetB7",)
"""Backbones whose ImageNet weights were not at hand when the published studies ran."""

BLOCKS = ("findings", "studies")
"""Parts of README.md that are generated, each between two marks; macros of the template."""

WIDTH = 120
"""Of a line of README.md."""


class Published:
    """One published study: its settings and its facts, in words of one language.

    Parameters
    ----------
    folder
        ``report/published/<study>``.
    labels
        Words of the language.

    Raises
    ------
    SkinTLError
        If its files are not those of a published study; by `number`, if it has no such fact.
    """

    def __init__(self, folder: Path, labels: Labels = ENGLISH):
        self.folder, self.name, self.labels = folder, folder.name, labels
        self.study = check_study(read_json(folder / "study.json"), source=folder / "study.json")
        self.title = labels.known("title", self.study.title)
        self.runs = pd.read_csv(folder / "runs.csv")
        self._facts = read_json(folder / "facts.json")

    @cached_property
    def main(self) -> Setup:
        """The set-up that the conclusions rest on, as in the report."""
        return main_setup(self.study, pd.read_csv(self.folder / "setups.csv").query("metric == 'macro_f1'"))

    @property
    def best(self) -> str:
        """The backbone that the validation set selects."""
        return str(self.value(f"best.{self.main.key}.macro_f1.best"))

    def has(self, key: str) -> bool:
        """Return whether there is a fact `key`."""
        return key in self._facts

    def value(self, key: str) -> Any:
        """Return the value of the fact `key`."""
        if key not in self._facts:
            raise SkinTLError(f"{self.folder / 'facts.json'} has no fact `{key}`. Publish the study again.")
        return self._facts[key]["value"]

    def number(self, key: str, spec: str = ".2f") -> str:
        """Return a fact as the language writes it."""
        return self.labels.number(self.value(key), spec)

    def interval(self, key: str, spec: str = ".2f") -> str:
        """Return a fact with its confidence interval: ``0.60 (0.56–0.63)``."""
        return f"{self.number(key, spec)} ({self.number(f'{key}.low', spec)}–{self.number(f'{key}.high', spec)})"

    def difference(self, key: str, other: bool = False) -> str:
        """Return a paired difference with its interval, and whether it is significant; `other` turns the sides."""
        ends = [self.value(f"{key}.{end}") for end in ("difference", "low", "high")]
        value, low, high = [-ends[0], -ends[2], -ends[1]] if other else ends
        shown = [self.labels.number(one, "+.2f") for one in (value, low, high)]
        significant = "" if self.value(f"{key}.real") else ", not significant"
        return f"{shown[0]} ({shown[1]} to {shown[2]}{significant})"

    def scores(self, setup: Setup) -> str:
        """Return macro F1 of all backbones under a set-up, then that of their ensemble."""
        names = [*self.study.backbones, ENSEMBLE]
        keys = {name: f"score.{setup.key}.{name}.macro_f1" for name in names}
        words = {name: self.labels.known("backbone", name) for name in names}
        return listing(f"{words[name]} {self.interval(key)}" for name, key in keys.items() if self.has(key))

    @property
    def significant_pairs(self) -> list[str]:
        """The pairs whose macro F1 differs significantly in the main set-up, the higher first: list of ``A over B``."""
        pairs = [(a, b) for a in self.study.backbones for b in self.study.backbones]
        keys = {pair: f"pair.{self.main.key}.{'.'.join(pair)}.macro_f1" for pair in pairs}
        real = {pair: key for pair, key in keys.items() if self.has(f"{key}.real") and self.value(f"{key}.real")}
        return [" over ".join(pair[:: 1 if self.value(f"{key}.difference") > 0 else -1]) for pair, key in real.items()]

    @property
    def not_run(self) -> list[str]:
        """The backbones that the study's file lists and that this run left out."""
        return backbones_left_out(self.study)

    @property
    def reduced(self) -> bool:
        """Whether its images have fewer pixels than those that were published."""
        size = "image_size.1.width"
        return not self.study.synthetic and self.has(size) and self.value(size) < self.value("literature.width")

    @property
    def core_hours(self) -> dict[str, str]:
        """Processor hours of each backbone, all its strategies together."""
        hours = self.runs.groupby("backbone", sort=False)["core_hours"].sum()
        return {str(name): self.labels.number(value, ".1f") for name, value in hours.items()}

    @cached_property
    def figure(self) -> tuple[str, str]:
        """The figure of the report's summary as SVG, and its alternative text."""
        ending = "" if self.labels.language == "en" else f".{self.labels.language}"
        page = (self.folder / f"report{ending}.html").read_text(encoding="utf-8")
        found = re.search(r'<figure id="figure-summary.*?aria-label="(.*?)".*?(<svg .*?</svg>)', page, re.DOTALL)
        return (found[2], html.unescape(found[1])) if found else ("", "")

    @property
    def command(self) -> str:
        """The command that the study was run with."""
        given = []
        for key in self.study.overrides:
            value = getattr(self.study, key)
            text = ",".join(str(one) for one in value) if isinstance(value, list) else str(value)
            text = text.lower() if isinstance(value, bool) else text
            given.append(f"{key}={text}" if re.fullmatch(r"[\w.,/-]*", text) else f"'{key}={text}'")
        return command_of(self.name) + (f" --config {' '.join(given)}" if given else "")


def published(root: Path = ROOT, labels: Labels = ENGLISH) -> list[Published]:
    """Return the published studies, list of `Published`, as `ORDER` has them."""
    places = {name: place for place, name in enumerate(ORDER)}
    found = [Published(file.parent, labels) for file in (root / "report" / "published").glob("*/study.json")]
    return sorted(found, key=lambda study: (places.get(study.name, len(ORDER)), study.name))


def blocks(root: Path = ROOT) -> dict[str, str]:
    """Return the generated blocks of README.md, each with its lines wrapped.

    Returns
    -------
    dict of str
        By name (`BLOCKS`).  ``findings`` is the answer of the first study that splits by lesion, four bullets, and how
        the presentation's numbers are explained; ``studies`` is the table of studies with their results.
    """
    studies = published(root)
    answers = [study for study in studies if study.main.split_policy == "lesion"] or studies
    lacking: dict[str, list[str]] = {}
    for study in studies:
        for name in study.not_run:
            lacking.setdefault(name, []).append(f"`{study.name}`")
    not_run: dict[tuple[str, bool], list[str]] = {}
    for name, where in lacking.items():
        not_run.setdefault((listing(where), name in WITHOUT_WEIGHTS), []).append(name)
    environment = templates(Path(__file__).parent, lstrip_blocks=True)
    environment.filters["listing"] = listing
    environment.globals["level"] = ENGLISH.number(CONFIDENCE, ".0%")
    template = environment.get_template("readme.md.j2").make_module(
        {
            "published": studies,
            "by_name": {study.name: study for study in studies},
            "answer": answers[0] if answers else None,
            "reproduction": next((study for study in studies if "unit" in study.study.preprocessings), None),
            "not_run": not_run,
            "label": ENGLISH,
            "Setup": Setup,
        }
    )
    return {name: _wrapped(getattr(template, name)()) for name in BLOCKS}


def listing(items: Iterable[object]) -> str:
    """Join items as an enumeration: ``A, B and C``."""
    shown = [str(item) for item in items]
    return ", ".join(shown[:-1]) + " and " + shown[-1] if len(shown) > 1 else "".join(shown)


def _wrapped(text: str) -> str:
    """Wrap paragraphs and bullets; tables, pictures and commands stay as they are."""
    whole = ""
    for part in re.split(r"\n\s*\n|\n(?=- )", text.strip("\n")):
        bullet = part.lstrip().startswith("- ")
        if not part.startswith(("|", "[!", "    ")):
            lines = textwrap.wrap(
                " ".join(part.split()), WIDTH, subsequent_indent="  " if bullet else "", break_on_hyphens=False
            )
            part = "\n".join(lines)
        whole += ("\n" if bullet and whole.rpartition("\n\n")[2].startswith("- ") else "\n\n") + part
    return whole.strip("\n") + "\n"
