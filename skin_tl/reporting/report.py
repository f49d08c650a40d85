"""The report's pieces: what the cells of the report notebook call.

Takes a study's name and a language; gives pieces of HTML (prose, figures, tables, example pictures), each shown by a
notebook as it is and put together to one page by `skin_tl.reporting.rendering`.  Every piece says which headings it
has, every figure has a text for readers who do not see it, and whatever comes from the metadata is escaped.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from markupsafe import Markup

from skin_tl.data import preparation
from skin_tl.errors import SkinTLError
from skin_tl.evaluation.metrics import main_arm
from skin_tl.evaluation.scoring import read_evaluation
from skin_tl.evaluation.study_files import TEXTS, Setup, read_study_files
from skin_tl.explain.explanations import LEAST_SIDE, explained_head, explanation_tables, read_maps
from skin_tl.files import ROOT
from skin_tl.reporting import figures
from skin_tl.reporting.facts import collect_facts
from skin_tl.reporting.score_tables import AVERAGES, PROBABILITY_SCORES, SCORES
from skin_tl.reporting.tables import report_tables
from skin_tl.reporting.texts import Labels, Texts, format_number, format_p, languages, plain, typeset, without_tags
from skin_tl.schema import BASELINES, CLASSES, ENSEMBLE, SENSITIVITY, SETUP
from skin_tl.study import command_of, own_training

_GRID = "display:grid;gap:12px;align-items:start;grid-template-columns:repeat(auto-fit,minmax(min(100%,360px),1fr))"
"""Panels stand beside each other where there is room; written into each figure, for it holds in a notebook too."""


_CASE = "flex:1 1 180px;max-width:320px"
"""How wide an explained image stands among others."""

_MOMENTS = ("started", "finished")

_WORDS = (
    "contents",
    "skip",
    "colours",
    "system",
    "light",
    "dark",
    "enlarge",
    "close",
    "sort",
    "ascending",
    "descending",
)
_WORDS += ("unsorted", "copy", "copied", "not_copied", "low", "high", "p_holm", "whole")
"""Words of the page and of its controls, labels below `page`."""

_BLANKS = {name: f"{{{name}}}" for name in ("name", "rows")}
"""What the page's script fills in."""


@dataclass(frozen=True)
class Piece:
    """A piece of the report's HTML.

    Attributes
    ----------
    html : str
    page : dict or None
        What the page as a whole needs to know; only the header has it.
    slides : dict or None
        What the slides are made from (see `Report.slides`); such a piece is no part of the page.
    """

    html: str
    page: dict | None = None
    slides: dict | None = None

    def _repr_mimebundle_(self, include=None, exclude=None):
        about = {"piece": True, "page": self.page} if self.slides is None else {"piece": False, "slides": self.slides}
        return {"text/html": str(self.html)}, {"skin_tl": about}


class Report:
    """The report of one study in one language.

    Parameters
    ----------
    study : str
        The study's name, or the path of ``runs/<study>/study.json``.
    language : str
        A folder below ``report/text/``.
    output : str or pathlib.Path
        Folder that `write` fills.  A folder of runs (``…/runs``, which the workflow gives to every notebook) stands for
        ``report/<study>`` beside it; empty means ``runs/interactive/report/<study>``.
    texts : pathlib.Path, optional
        Holds the folders of languages.

    Attributes
    ----------
    files : skin_tl.evaluation.study_files.StudyFiles
    tables : dict of pandas.DataFrame
        By the name of their CSV file.
    facts : skin_tl.reporting.facts.Facts
    labels : skin_tl.reporting.texts.Labels
    setups : list of skin_tl.evaluation.study_files.Setup
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

    def __init__(self, study, language="en", output="", texts=TEXTS):
        if not (texts / language).is_dir():
            known = ", ".join(languages())
            raise SkinTLError(
                f"The report has no language {language!r}: {texts / language} is missing. Known: {known}."
            )
        self.files = read_study_files(study)
        self.study = self.files.study
        self.folder = _report_folder(output, self.study.name)
        self.tables = report_tables(self.files, read_evaluation(self.files, self.folder))
        self.tables |= explanation_tables(self.files)
        self.facts = collect_facts(self.tables)
        self.setups, self.main = self.files.setups, self.files.main_setup
        self.curves = self.files.curves
        head = explained_head(self.study)
        policy, preprocessing = head["split_policy"], head["preprocessing"]
        self.explained = [Setup(strategy, policy, preprocessing) for strategy in self.study.strategies]
        self.labels, self.language = Labels(language, texts), language
        published = set(self.tables["published_results.csv"]["backbone"])
        self.published_backbones = [name for name in self.study.backbones if name in published]
        self.external = self.study.external
        self.pictures = self.study.images
        self.narrowed = [key for key in self.study.overrides if key not in ("images", "title")]
        self.texts = Texts(language, self.facts, self._context(), texts)
        self._numbers = {}
        self._semicolon = typeset(" ;", language).lstrip(" ")  # with French's narrow space before it

    def _context(self):
        """Return what the templates may look at: flags, names and lists, no numbers to be shown."""
        study = self.study
        same = self.tables["backbones.csv"]["parameters_difference"].dropna() == 0
        repeats = Setup("feature_extraction", "image", "unit")
        repeated = repeats in self.files.setups and self.published_backbones and not self.files.random_weights
        return {
            "study": study,
            "synthetic": self.study.synthetic,
            "random_weights": self.files.random_weights,
            "overrides": self.narrowed,
            "pictures": self.pictures,
            "classes": CLASSES,
            "backbones": study.backbones,
            "published_backbones": self.published_backbones,
            "strategies": study.strategies,
            "strategy_names": [self.labels(f"strategy.{name}") for name in study.strategies],
            "tuned": self.files.tuned,
            "own_training": own_training(study),
            "rates_compared": self.rates_compared,
            "tuned_names": [self.labels(f"strategy.{name}") for name in self.files.tuned],
            "split_policies": study.split_policies,
            "preprocessings": study.preprocessings,
            "n_seeds": len(study.seeds),
            "over_seeds": self.labels("caption.over_seeds") if len(study.seeds) > 1 else "",
            "counted": self.counted,
            "transferred": not self.files.random_weights and study.strategies != ["from_scratch"],
            "main_transferred": not self.files.random_weights and self.main.strategy != "from_scratch",
            "setups": self.files.setups,
            "main": self.files.main_setup,
            "explained": self.explained,
            "curves": self.curves,
            "train_fractions": self.study.train_fractions,
            "gains": self.gains,
            "against_scratch": self._against_scratch,
            "random_control": self._random_control(),
            "reproduction": repeats if repeated else None,
            "n_stated": len(same),
            "parameters_agree": bool(same.all()),
            "isolated": self._isolated(),
            "lower_precision": any(run.get("precision") == "bfloat16" for run in self.files.runs.values()),
            "setup_name": self.setup_name,
            "of_strategy": lambda name: f"{self.labels(f'strategy.{name}')}, " if len(study.strategies) > 1 else "",
            "anchor": lambda setup: setup.key.replace(".", "-"),
            "figure": lambda name, **context: f"#{_anchor('figure', name, context)}",
            "table": lambda name, **context: f"#{_anchor('table', name, context)}",
            "ranked": self.ranked,
            "pairs": self.pairs,
            "effects": self.effects,
            "real_effects": lambda key, names: [n for n in names if self.facts[f"{key}{n}.macro_f1.real"].value],
            "moved": lambda key, names: [n for n in names if self._moves(f"{key}{n}.macro_f1")],
            "subgroup_name": self._subgroup_name,
            "diagnosis_name": self._diagnosis_name,
            "has_middle": self._has_middle,
            "other_splits_setup": self._other_splits_setup(),
            "references": self._references(),
            "n_duplicates": self.files.n_duplicates,
            "variables": list(dict.fromkeys(self.tables["subgroup_ranges.csv"]["variable"])),
            "as_list": lambda value: [str(v) for v in (value if isinstance(value, list) else [value])],
        }

    def _against_scratch(self):
        """Return the key of the main strategy less training from scratch, and whether it is not clearly above."""
        setup = self.main
        best = self.best(setup)
        of_both = f"{setup.strategy}/from_scratch.{setup.split_policy}.{setup.preprocessing}"
        key = f"gain.{of_both}.{best}.macro_f1"
        if f"{key}.difference" not in self.facts:
            return key, False
        return key, not (self.facts[f"{key}.real"].value and self.facts[f"{key}.difference"].value > 0)

    def _random_control(self):
        """Return what pretrained weights of frozen backbones are worth against random ones, by macro F1.

        Returns
        -------
        dict
            key (beginning of the facts' keys), names (the backbones with this control, none in a study without), and of
            these better, worse and open: the difference is significant and above 0, below 0, or not significant.
        """
        policy = self.main.split_policy
        table = next((part for (_, of), part in self.effects("weights") if of == policy), None)
        found = {"key": f"effect.weights.all.feature_extraction.{policy}."}
        if table is None:
            return found | {name: [] for name in ("names", "better", "worse", "open")}
        above, real = table["difference"] > 0, table["real"].astype(bool)
        sides = {"better": real & above, "worse": real & ~above, "open": ~real}
        return found | {"names": list(table["backbone"])} | {k: list(table["backbone"][v]) for k, v in sides.items()}

    def _has_middle(self, setup):
        """Tell whether any backbone's maps are fine enough for the share that lies in the middle of the picture."""
        return bool((setup.of(self.tables["explained.csv"])["map_side"] >= LEAST_SIDE).any())

    def _isolated(self):
        """Return which of the three flaws of the presentation's experiment this study measures on its own."""
        columns = set(self.tables["effects.csv"]["column"])
        measured = {"leakage": "arm" in columns, "scaling": "preprocessing" in columns}
        measured["test_subset"] = len(self.tables["other_splits.csv"])
        return [name for name, found in measured.items() if found]

    def _moves(self, key):
        return self.facts[f"{key}.rank_a"].value != self.facts[f"{key}.rank_b"].value

    def _subgroup_name(self, variable, key):
        """Return the name of a subgroup, a fact, in the report's language."""
        value = self.facts[key].value
        shown = self.labels.known({"site": "localization"}.get(variable, variable), value)
        return Markup('<data value="{}" data-fact="{}">{}</data>').format(value, key, plain(shown))

    def _diagnosis_name(self, key):
        """Return the name of a diagnosis, a fact, in the report's language."""
        value = self.facts[key].value
        shown = self.labels(f"diagnosis.{value}")
        return Markup('<data value="{}" data-fact="{}">{}</data>').format(value, key, plain(shown))

    def _other_splits_setup(self):
        """Return in words what the further splits were scored under, one for all; empty in a study without them."""
        found = self.tables["other_splits.csv"][SETUP].drop_duplicates().to_dict("records")
        names = dict.fromkeys(self.setup_name(Setup(**row)) for row in found)
        return "; ".join(names)

    def _references(self):
        """Return the sources of what this study used, each with its link: data sets, networks, methods."""
        heads = self.study.strategies != ["from_scratch"]
        holds = {"always": True, "heads": heads, "transferred": heads and not self.files.random_weights}
        named = [*self.study.backbones, self.external]
        line = Markup('{} <a href="{}">{}</a>')
        sources = pd.read_csv(TEXTS / "references.csv").to_dict("records")
        used = [source for source in sources if holds.get(source["when"], source["key"] in named)]
        return [line.format(source["reference"], source["url"], source["url"]) for source in used]

    # What a cell may ask

    def setup_name(self, setup):
        """Return a set-up in words; strategies are named where the study has several."""
        words = [self.labels(f"split_policy.{setup.split_policy}"), self.labels(f"preprocessing.{setup.preprocessing}")]
        if len(self.study.strategies) > 1:
            words.insert(0, self.labels(f"strategy.{setup.strategy}"))
        return ", ".join(words)

    def best(self, setup):
        """Return the backbone of a set-up that the validation subset selects, by macro F1."""
        return self.facts[f"best.{setup.key}.macro_f1.best"].value

    def ranked(self, setup, metric):
        """Return the backbones of a set-up, the highest score first."""
        scores = setup.of(self.tables["scores.csv"])
        scores = scores[(scores["metric"] == metric) & (scores["kind"] == "backbone")]
        return scores.sort_values("rank")["backbone"].tolist()

    def pairs(self, setup, metric):
        """Return the compared pairs of a set-up, list of dict: better, worse, key (of its facts) and real."""
        table = setup.of(self.tables["comparisons.csv"])
        rows = []
        for row in table[(table["metric"] == metric) & (table["dataset"] == "internal")].to_dict("records"):
            a, b = row["backbone_a"], row["backbone_b"]
            better, worse = (a, b) if row["difference"] >= 0 else (b, a)
            key = f"pair.{setup.key}.{a}.{b}.{metric}"
            rows.append({"better": better, "worse": worse, "key": key, "real": bool(row["real"])})
        return rows

    def effects(self, column, metric="macro_f1", tested="all"):
        """Return the paired effects of one thing, grouped by (strategy, split policy): rows of ``effects.csv``."""
        table = self.tables["effects.csv"]
        table = table[(table["column"] == column) & (table["metric"] == metric) & (table["tested"] == tested)]
        return list(table.groupby(["strategy", "split_policy"], sort=False))

    def gains(self, backbone, metric="macro_f1"):
        """Return the compared pairs of strategies, list of dict: a, b (labels), key (facts of a less b) and real."""
        table = self.tables["effects.csv"]
        table = table[(table["column"] == "strategy") & (table["metric"] == metric) & (table["backbone"] == backbone)]
        rows = []
        for row in table.to_dict("records"):
            setup = Setup(row["strategy"], row["split_policy"], row["preprocessing"])
            if (setup.split_policy, setup.preprocessing) == (self.main.split_policy, self.main.preprocessing):
                names = {side: self.labels(f"strategy.{row[side]}") for side in "ab"}
                rows.append(names | {"key": f"gain.{setup.key}.{backbone}.{metric}", "real": bool(row["real"])})
        return rows

    def contrasts(self, metric, factor):
        """Return the comparisons of set-ups that differ in one thing, grouped by (factor, strategy, held level)."""
        table = self.tables["contrasts.csv"]
        table = table[(table["metric"] == metric) & (table["factor"] == factor)]
        return table.groupby(["factor", "strategy", "other"], sort=False)

    @property
    def counted(self):
        """How counts are written that are means over the seeds: whole where there is one seed."""
        return ".1f" if len(self.study.seeds) > 1 else ".0f"

    @property
    def rates_compared(self):
        """Whether whole networks were trained with several learning rates."""
        return any(len(self.study.rates(name)) > 1 for name in self.files.tuned)

    def histories(self):
        """Return the history of each run's own training: list of (backbone, strategy, rows of ``history.csv``)."""
        own = main_arm(self.files.history)
        runs = own.groupby(["backbone", "strategy"], sort=False)
        return [(*names, rows[rows["stage"] == rows["stage"].iloc[-1]]) for names, rows in runs]

    def own(self, name, **values):
        """Return the rows of a table that belong to the main set-up, on the study's own images by default."""
        table = self.main.of(self.tables[name])
        for column, value in ({"dataset": "internal"} | values).items():
            table = table[table[column] == value] if column in table else table
        return table

    def ece(self, setup):
        """Return the expected calibration error of each backbone (and the ensemble) of a set-up, dict of float."""
        table = setup.of(self.tables["scores.csv"])
        return table[table["metric"] == "ece"].set_index("backbone")["value"].to_dict()

    def shown_metric(self, metric):
        """Return the label of a subgroup's metric: its recall is that of melanoma."""
        return "recall_mel" if metric == "recall" else metric

    def overall(self, metric, backbone):
        """Return a subgroup's metric for all test images of the main set-up."""
        key = f"{self.main.key}.{backbone}."
        return self.facts[f"class.{key}mel.recall" if metric == "recall" else f"score.{key}{metric}"].value

    def other_splits(self, metric):
        """Return a score on each further split: backbone, seed, value, n_images."""
        table = self.tables["metrics.csv"]
        table = table[(table["arm"] == "other_split") & (table["metric"] == metric) & (table["class"] == "all")]
        return table[(table["seed"] != "all") & (table["subgroup"] == "all")]

    def numbers(self, spec=",d", **keys):
        """Return facts as text for a drawing's words: ``numbers(images="data.all.n_images")``."""
        return {name: format_number(self.facts[key].value, spec, self.language) for name, key in keys.items()}

    # Pieces

    def _banners(self):
        """Return what the study is not: (kind, text, short text) of each banner."""
        kinds = {
            "synthetic": self.study.synthetic,
            "random": self.files.random_weights,
            "narrowed": bool(self.narrowed),
        }
        return [
            (kind, self.texts.caption("banners", kind, "text"), self.texts.caption("banners", kind, "short"))
            for kind, present in kinds.items()
            if present
        ]

    def header(self):
        """Return the title with its banners, and what the page as a whole needs to know."""
        banners = self._banners()
        lines = [Markup('<p class="banner {}" role="note">{}</p>').format(k, Markup(text)) for k, text, _ in banners]
        short = [without_tags(text) for _, _, text in banners] or [self.labels("page.not_a_diagnosis")]
        title = self.labels.known("title", self.study.title)
        page = {
            "language": self.language,
            "title": title,
            "running": " · ".join(short),
            "words": {key: self.labels(f"page.{key}", **_BLANKS) for key in _WORDS},
            "page_of": self.labels("page.page", page="\0", pages="\0").split("\0"),
        }
        return Piece(Markup("\n").join([Markup('<h1 id="title">{}</h1>').format(title), *lines]), page)

    def text(self, name, **context):
        """Return the text ``<name>.md`` in the report's language."""
        return Piece(self.texts.prose(name, **context))

    def figure(self, name, drawings, data=None, **context):
        """Return a figure: one drawing, or panels beside each other, with caption and alternative text.

        Parameters
        ----------
        name : str
            Its entry in captions.yaml.
        drawings : skin_tl.reporting.figures.Drawing or list of it
        data : str, optional
            The table that it shows, for the link below it.
        **context
            What its caption asks for, for example `setup`.
        """
        drawings = drawings if isinstance(drawings, Sequence) else [drawings]
        number, anchor = self._number("figure", name, context)
        several = len(drawings) > 1
        panels = []
        for place, drawing in enumerate(drawings):
            svg = figures.to_svg(drawing, f"{anchor}-{place}")
            width, height = drawing.get_size_inches()
            kind = "panel tall" if height > 0.8 * width else "panel"
            panels.append(f'<div class="{kind}" style="max-width:{width * 96 * 1.2:.0f}px">{svg}</div>')
        alt = " ".join(without_tags(self.texts.caption("figures", name, "alt", **context)).split())
        body = Markup('<div class="panels{}" role="img" aria-label="{}" style="{}">\n{}\n</div>').format(
            " several" if several else "", alt, _GRID, Markup("\n".join(panels))
        )
        caption = self.texts.caption("figures", name, "caption", **context)
        return Piece(self._captioned(anchor, "figure", number, body, caption, data))

    def examples(self, n_examples=5):
        """Return pictures of each diagnosis, each with a text of its own; without pictures, the words that say why."""
        if not self.pictures:
            return self.text("no_pictures")
        images = preparation.read_images(self.files.folder)
        number, anchor = self._number("figure", "examples", {})
        rows = []
        for dx, pictures in figures.example_pictures(images, self.files.metadata, n_examples).items():
            name = self.labels(f"diagnosis.{dx}")
            cells = [
                Markup('<img src="{}" alt="{}" width="160" height="120">').format(
                    uri, self.labels("caption.example", diagnosis=name, image=image_id)
                )
                for image_id, uri in pictures
            ]
            name = Markup('<span class="diagnosis" style="border-color:{}">{} ({})</span>').format(
                figures.DIAGNOSES[dx], name, dx
            )
            line = Markup('<div class="examples" style="display:flex;gap:4px">{}</div>').format(Markup("").join(cells))
            rows.append(Markup('<div class="of-diagnosis">{}{}</div>').format(name, line))
        alt = without_tags(self.texts.caption("figures", "examples", "alt")).strip()
        body = Markup('<div role="group" aria-label="{}">{}</div>').format(alt, Markup("\n").join(rows))
        caption = self.texts.caption("figures", "examples", "caption")
        return Piece(self._captioned(anchor, "figure", number, body, caption, None))

    def explanations(self, setup, backbone):
        """Return what a backbone looks at: of each diagnosis an image that it recognises and one that it does not."""
        cases = self._cases(setup, backbone)
        rows = []
        for dx in CLASSES:
            cells = []
            for kind in ("hit", "miss"):
                found = [case for row, case in cases if (row["kind"], row["dx"]) == (kind, dx)]
                none = Markup('<div class="case" style="{}">{}</div>').format(_CASE, self.labels(f"caption.no_{kind}"))
                cells += found or [none]
            rows.append(self._row_of_cases(figures.DIAGNOSES[dx], self._diagnosis(dx), cells))
        return self._pictures("explanations", rows, setup=setup, backbone=backbone)

    def confident_errors(self, setup):
        """Return the errors of each backbone that it is surest of, with what it looks at."""
        rows = []
        for backbone in self.study.backbones:
            cells = [case for row, case in self._cases(setup, backbone) if row["kind"] == "error"]
            if cells:
                rows.append(self._row_of_cases(figures.backbone_style(backbone)[0], backbone, cells))
        return self._pictures("confident_errors", rows, setup=setup)

    def _cases(self, setup, backbone):
        """Return the explained images of a run: pairs of their row in ``explanations.csv`` and HTML."""
        images = preparation.read_images(self.files.folder)
        row_of = {image_id: row for row, image_id in enumerate(images.ids)}
        table = setup.of(self.tables["explanations.csv"])
        chosen = table[table["backbone"] == backbone].to_dict("records")
        run = self.files.folder / setup.strategy / backbone
        maps = read_maps(run, len(chosen), command_of(self.study.name))
        cases, pixels = [], images.pixels
        for row, heat in zip(chosen, maps, strict=True):
            words = {name: self.labels(f"diagnosis.{row[name]}") for name in ("dx", "predicted")}
            words |= {"image": row["image_id"], "probability": format_number(row["probability"], ".0%", self.language)}
            right = row["dx"] == row["predicted"]
            middle = self.labels("caption.nothing")
            if row["map_side"] < LEAST_SIDE:
                middle = self.labels("caption.coarse", side=format_number(row["map_side"], "d", self.language))
            elif pd.notna(row["middle"]):
                middle = self.labels("caption.middle", share=format_number(row["middle"], ".0%", self.language))
            alt = self.labels("caption.explained_hit" if right else "caption.explained_miss", **words, middle=middle)
            verdict = Markup("{} ({})").format(
                self.labels("caption.recognised") if right else self.labels("caption.taken_for", **row),
                self._cell(row["probability"], ".0%"),
            )
            picture = figures.explained_picture(pixels[row_of[row["image_id"]]], heat)
            html = Markup(
                '<div class="case" style="{}"><img src="{}" alt="{}" width="320" height="120" style="width:100%;'
                'height:auto"><br><span>{}</span></div>'
            )
            cases.append((row, html.format(_CASE, picture, alt, verdict)))
        return cases

    def _row_of_cases(self, colour, name, cells):
        name = Markup('<span class="diagnosis" style="border-color:{}">{}</span>').format(colour, name)
        cells = Markup("").join(cells)
        cells = Markup('<div class="cases" style="display:flex;flex-wrap:wrap;gap:8px">{}</div>').format(cells)
        return Markup('<div class="of-diagnosis">{}{}</div>').format(name, cells)

    def _pictures(self, figure, rows, **context):
        """Return a figure made of rows of pictures, each with a text of its own."""
        number, anchor = self._number("figure", figure, context)
        alt = without_tags(self.texts.caption("figures", figure, "alt", **context)).strip()
        body = Markup('<div role="group" aria-label="{}">{}</div>').format(
            " ".join(alt.split()), Markup("\n").join(rows)
        )
        caption = self.texts.caption("figures", figure, "caption", **context)
        return Piece(self._captioned(anchor, "figure", number, body, caption, "explanations.csv"))

    def table(self, name, **context):
        """Return a table of the report by its name: one of the methods ``_table_<name>`` lays it out."""
        number, anchor = self._number("table", name, context)
        heads, rows, data = getattr(self, f"_table_{name}")(**context)
        caption = self.texts.caption("tables", name, "caption", **context)
        caption = self._caption_line("table", number, caption, data)
        columns = Markup("").join(
            Markup('<th scope="col"{}>{}</th>').format(Markup(' class="number"') if i and right else "", head)
            for i, (head, right) in enumerate(heads)
        )
        lines = []
        for row in rows:
            cells = [Markup('<th scope="row">{}</th>').format(row[0])]
            for cell, (_, right) in zip(row[1:], heads[1:], strict=True):
                cells.append(Markup("<td{}>{}</td>").format(Markup(' class="number"') if right else "", cell))
            lines.append(Markup("<tr>{}</tr>").format(Markup("").join(cells)))
        html = Markup(
            '<div class="table {}" id="{}">\n<p class="caption" id="{}-caption">{}</p>\n'
            '<div class="scroll" role="region" aria-labelledby="{}-caption" tabindex="0">\n'
            '<table aria-labelledby="{}-caption">\n<thead><tr>{}</tr></thead>\n<tbody>\n{}\n</tbody>\n</table>\n'
            "</div>\n</div>"
        )
        ids = [anchor, anchor, caption, anchor, anchor]
        return Piece(html.format(name, *ids, columns, Markup("\n").join(lines)))

    def slides(self):
        """Return the words of the slides, which rendering makes a deck of; a notebook shows their titles.

        ``slides.md`` holds one slide per heading.  A line ``![](#figure-…)`` stands for the figure or table of the
        report with that anchor, ``{{ figure(name, setup=…) }}`` gives the anchor of one that depends on a set-up, and
        ``![text](#figure-…/2)`` shows one panel of a figure, counted from zero, with an alternative text of its own.
        """
        html = str(self.texts.prose("slides"))
        notes = [without_tags(short) for _, _, short in self._banners()] + [self.labels("page.not_a_diagnosis")]
        words = {key: self.labels(f"page.{key}") for key in ("slides", "previous", "next")}
        titles = [Markup("<li>{}</li>").format(Markup(title)) for title in re.findall(r"<h2[^>]*>(.*?)</h2>", html)]
        shown = Markup("<ol>\n{}\n</ol>").format(Markup("\n").join(titles))
        return Piece(shown, slides={"html": html, "notes": notes, "words": words})

    def write(self):
        """Write the tables and ``facts.json`` to the output folder; return the folder."""
        self.facts.write(self.folder)
        return self.folder

    # How pieces are numbered and captioned

    def _number(self, kind, name, context):
        """Return the number and the anchor of a figure or table; the same one keeps its number when shown again."""
        anchor = _anchor(kind, name, context)
        numbers = self._numbers.setdefault(kind, {})
        return numbers.setdefault(anchor, len(numbers) + 1), anchor

    def _caption_line(self, kind, number, caption, data):
        line = Markup('<span class="count">{}.</span> {}').format(
            self.labels(f"caption.{kind}", number=number), Markup(caption)
        )
        if data is None:
            return line
        return line + Markup(' <span class="source">{} <a href="{}">{}</a></span>').format(
            self.labels("caption.data").capitalize(), data, data
        )

    def _captioned(self, anchor, kind, number, body, caption, data):
        line = self._caption_line(kind, number, caption, data)
        return Markup('<figure id="{}">\n{}\n<figcaption>{}</figcaption>\n</figure>').format(anchor, body, line)

    # How tables are laid out: heads (text, whether numbers stand below), rows of cells, and the CSV file

    def _heads(self, *names):
        return [(self.labels(f"column.{name.lstrip('#')}"), name.startswith("#")) for name in names]

    def _cell(self, value, spec, part=""):
        """Return a number of a table; `part` says what it is where a cell holds several (a word below `page`)."""
        if value is None or pd.isna(value):
            return "–"
        return _data(value, format_number(value, spec, self.language), part)

    def _p_value(self, value):
        return self.labels("not_testable") if pd.isna(value) else _data(value, format_p(value, self.language), "p_holm")

    def _cells(self, row, specs):
        return [self._cell(row[name], spec) for name, spec in specs.items()]

    def _diagnosis(self, dx):
        return self.labels(f"diagnosis.{dx}") + (f" ({dx})" if dx in CLASSES else "")

    def _table_diagnoses(self):
        specs = {"n_images": ",d", "share_images": ".1%", "n_lesions": ",d", "images_per_lesion": ".2f"}
        rows = self.tables["classes.csv"].to_dict("records")
        rows = [[self._diagnosis(row["dx"]), *self._cells(row, specs)] for row in rows]
        return self._heads("diagnosis", *(f"#{name}" for name in specs)), rows, "classes.csv"

    def _table_metadata(self):
        rows = []
        for row in self.tables["metadata_counts.csv"].to_dict("records"):
            value = self.labels.known(row["field"], row["value"])
            field = self.labels(f"field.{row['field']}")
            rows.append([field, value, *self._cells(row, {"n_images": ",d", "share_images": ".1%"})])
        return self._heads("field", "value", "#n_images", "#share_images"), rows, "metadata_counts.csv"

    def _table_subsets(self):
        table = self.tables["subsets.csv"].query("seed == 'all'")
        rows = []
        for row in table.to_dict("records"):
            names = [self.labels(f"split_policy.{row['split_policy']}"), self.labels(f"subset.{row['subset']}")]
            rows.append([*names, *self._cells(row, {"n_images": ",.0f", "n_lesions": ",.0f", "share_known": ".1%"})])
        return self._heads("split_policy", "subset", "#n_images", "#n_lesions", "#share_known"), rows, "subsets.csv"

    def _table_backbones(self):
        table = self.tables["backbones.csv"]
        specs = {"n_parameters_with_classifier": ",d", "n_parameters_presentation": ",d"}
        specs |= {"parameters_difference": "+,d", "n_parameters": ",d", "n_head": ",d", "imagenet_size": "d"}
        specs = {name: spec for name, spec in specs.items() if table[name].notna().any()}
        rows = []
        for row in table.to_dict("records"):
            rows.append([row["backbone"], *self._cells(row, specs), self.labels(f"transform.{row['transform']}")])
        return self._heads("backbone", *(f"#{name}" for name in specs), "transform"), rows, "backbones.csv"

    def _interval(self, low, high, spec=".2f", approximate=False):
        """Return an interval in brackets, with a mark where it is approximate."""
        if pd.isna(low):
            return Markup("")
        low, high = self._cell(low, spec, "low"), self._cell(high, spec, "high")
        mark = "≈ " if approximate else ""
        return Markup(' <span class="interval">{}[{}{} {}]</span>').format(mark, low, self._semicolon, high)

    def compared(self, setup):
        """Return the rows of ``scores.csv`` of a set-up: backbones, the best macro F1 first, ensemble and baselines."""
        table = self.tables["scores.csv"]
        rows = pd.concat([setup.of(table), setup.baselines_of(table)])
        order = [*self.ranked(setup, "macro_f1"), ENSEMBLE, *BASELINES]
        return rows.sort_values("backbone", key=lambda names: names.map(order.index), kind="stable")

    def _score_rows(self, setup, specs, kinds, spec_of_ends=".2f"):
        """Return rows of a table: per run the scores `specs` (format by metric) with their intervals."""
        table = self.compared(setup)
        table = table[table["kind"].isin(kinds)]
        rows = []
        for backbone in dict.fromkeys(table["backbone"]):
            of_run = table[table["backbone"] == backbone].set_index("metric")
            cells = []
            for metric, spec in specs.items():
                row = of_run.loc[metric]
                ends = self._interval(row["ci_low"], row["ci_high"], spec_of_ends, row["approximate"])
                cells.append(self._cell(row["value"], spec) + ends)
            rows.append([self.labels.known("backbone", backbone), *cells, of_run.loc["macro_f1", "seed_sd"]])
        return rows

    def _table_scores(self, setup):
        rows = self._score_rows(setup, dict.fromkeys(SCORES, ".3f"), ("backbone", "ensemble", "baseline"))
        spread = any(pd.notna(row[-1]) for row in rows)
        rows = [[*row[:-1], *([self._cell(row[-1], ".3f")] if spread else [])] for row in rows]
        heads = [(self.labels(f"metric.{metric}"), True) for metric in SCORES]
        heads = [*self._heads("backbone"), *heads, *(self._heads("#seed_sd") if spread else [])]
        return heads, rows, "scores.csv"

    def _table_probabilities(self, setup):
        specs = {name: ".3f" for name in PROBABILITY_SCORES}
        # An end that lies close to its value must not be rounded past it.
        rows = [row[:-1] for row in self._score_rows(setup, specs, ("backbone", "ensemble"), ".3f")]
        heads = [(self.labels(f"metric.{metric}"), True) for metric in specs]
        return [*self._heads("backbone"), *heads], rows, "scores.csv"

    def _table_ranking(self, setup):
        table = setup.of(self.tables["ranking.csv"])
        backbones = self.ranked(setup, "macro_f1")
        rows = []
        for metric in ("roc_auc", "average_precision"):
            cells = table[table["metric"] == metric].set_index(["backbone", "dx"])
            for dx in CLASSES:
                row = []
                for backbone in backbones:
                    cell = cells.loc[(backbone, dx)]
                    ends = self._interval(cell["ci_low"], cell["ci_high"], approximate=cell["approximate"])
                    row.append(self._cell(cell["value"], ".2f") + ends)
                rows.append([f"{self.labels(f'metric.{metric}')}, {dx}", *row])
        heads = [*self._heads("row"), *((backbone, True) for backbone in backbones)]
        return heads, rows, "ranking.csv"

    def _table_decisions(self, setup, decision):
        table = setup.of(self.tables["decisions.csv"])
        table = table[(table["seed"] == "all") & (table["dataset"] == "internal") & (table["decision"] == decision)]
        specs = {"sensitivity": ".0%", "specificity": ".0%", "missed": self.counted, "flagged_benign": self.counted}
        rows = []
        for point in ("diagnosis", "sensitivity_95"):
            cells = table[table["point"] == point].set_index(["backbone", "metric"])
            for backbone in [*self.ranked(setup, "macro_f1"), ENSEMBLE]:
                if (backbone, "sensitivity") not in cells.index:
                    continue
                row = []
                for metric, spec in specs.items():
                    cell = cells.loc[(backbone, metric)]
                    shown = self._cell(cell["value"], spec)
                    if metric in ("missed", "flagged_benign"):
                        of = cells.loc[(backbone, {"missed": "tested", "flagged_benign": "benign"}[metric]), "value"]
                        spec_of = ",.0f" if of % 1 == 0 else ",.1f"
                        shown = Markup("{} / {}").format(shown, self._cell(of, spec_of, "whole"))
                    row.append(shown + self._interval(cell["ci_low"], cell["ci_high"], spec))
                point_name = self.labels(f"point.{point}", sensitivity=format_number(SENSITIVITY, ".0%", self.language))
                rows.append([self.labels.known("backbone", backbone), point_name, *row])
        return self._heads("backbone", "point", *(f"#{name}" for name in specs)), rows, "decisions.csv"

    def _table_effects(self, column):
        table, several = self.tables["effects.csv"], column != "arm" and len(self.study.strategies) > 1
        rows = []
        table = table[table["column"] == column]
        for row in table[table["metric"].isin(["accuracy", "macro_f1"])].to_dict("records"):
            names = [self.labels(f"strategy.{row['strategy']}")] if several else []
            names.append(self.labels(f"metric.{row['metric']}"))
            if column == "arm":
                names.append(self.labels(f"tested.{row['tested']}"))
            else:
                names.append(self.labels(f"split_policy.{row['split_policy']}"))
            difference = self._cell(row["difference"], "+.3f")
            difference += self._interval(row["ci_low"], row["ci_high"], "+.2f")
            p = self._p_value(row["p_holm"])
            cells = self._cells(row, {"value_a": ".3f", "value_b": ".3f"})
            rows.append([row["backbone"], *names, *cells, difference, p])
        first = table.iloc[0]
        heads = [(self.labels(f"{column}.{first[side]}"), True) for side in ("a", "b")]
        names = ["strategy"] if several else []
        names = self._heads("backbone", *names, "row", "tested" if column == "arm" else "split_policy")
        p = "#p_holm" if len(self.study.backbones) > 1 else "#p"
        return [*names, *heads, *self._heads("#difference", p)], rows, "effects.csv"

    def _table_other_splits(self):
        specs = {"n_splits": "d", "n_images": ",.0f", "mean": ".3f", "sd": ".3f", "lowest": ".3f", "highest": ".3f"}
        specs |= {"typical_gap": ".3f"}
        table = self.tables["other_splits.csv"]
        rows = [
            [row["backbone"], *self._cells(row, specs)]
            for row in table[table["metric"] == "macro_f1"].to_dict("records")
        ]
        return self._heads("backbone", *(f"#{name}" for name in specs)), rows, "other_splits.csv"

    def _table_external(self, setup):
        rows = []
        for row in setup.of(self.tables["external.csv"]).to_dict("records"):
            difference = self._cell(row["difference"], "+.3f") + self._interval(row["ci_low"], row["ci_high"], "+.2f")
            cells = self._cells(row, {"internal": ".3f", "external": ".3f"})
            name = self.labels.known("backbone", row["backbone"])
            rows.append([name, self.labels(f"metric.{row['metric']}"), *cells, difference])
        return self._heads("backbone", "row", "#internal", "#external", "#difference"), rows, "external.csv"

    def _table_confident_errors(self, setup):
        table = setup.of(self.tables["explanations.csv"])
        specs = {"probability": ".0%"} | ({"middle": ".0%"} if self._has_middle(setup) else {})
        rows = []
        for row in table[table["kind"] == "error"].to_dict("records"):
            names = [row["image_id"], self._diagnosis(row["dx"]), self._diagnosis(row["predicted"])]
            rows.append([row["backbone"], *names, *self._cells(row, specs)])
        heads = self._heads("backbone", "image", "diagnosis", "predicted", *(f"#{name}" for name in specs))
        return heads, rows, "explanations.csv"

    def _table_comparisons(self, setup):
        table = self.tables["comparisons.csv"]
        table = setup.of(table[table["dataset"] == "internal"])
        metrics = list(dict.fromkeys(table["metric"]))
        rows = []
        for (a, b), pair in table.groupby(["backbone_a", "backbone_b"], sort=False):
            cells = []
            for metric in metrics:
                row = pair[pair["metric"] == metric].iloc[0]
                low, high = (self._cell(row[f"ci_{end}"], "+.2f", end) for end in ("low", "high"))
                p = self._p_value(row["p_holm"])
                words = Markup(' <span class="interval">[{}{} {}] {}</span>').format(low, self._semicolon, high, p)
                cell = self._cell(row["difference"], "+.3f")
                cells.append((Markup("<strong>{}</strong>").format(cell) if row["real"] else cell) + words)
            rows.append([Markup("{} − {}").format(a, b), *cells])
        heads = [(self.labels(f"metric.{metric}"), True) for metric in metrics]
        return [*self._heads("pair"), *heads], rows, "comparisons.csv"

    def _table_classification_report(self, setup, backbone):
        table = setup.of(self.tables["classification_reports.csv"])
        table = table[table["backbone"] == backbone]
        whole = (table["support"] % 1 == 0).all() or table["support"].min() >= 20
        specs = {"precision": ".2f", "recall": ".2f", "f1_score": ".2f", "support": ",.0f" if whole else ",.1f"}
        if table["published_f1_score"].notna().any():
            specs |= {"published_f1_score": ".2f", "f1_score_difference": "+.2f"}
        rows = []
        for row in table.to_dict("records"):
            name = self.labels(f"row.{row['row']}") if row["row"] in AVERAGES else self._diagnosis(row["row"])
            cells = []
            for column, spec in specs.items():
                ends = [row.get(f"{column}_{end}", float("nan")) for end in ("low", "high")]
                cells.append(self._cell(row[column], spec) + self._interval(*ends))
            rows.append([name, *cells])
        return self._heads("diagnosis", *(f"#{name}" for name in specs)), rows, "classification_reports.csv"

    def _table_published(self, setup):
        table = setup.of(self.tables["classification_reports.csv"])
        table = table[table["published_f1_score"].notna()].set_index(["backbone", "row"])
        rows = []
        for backbone in self.published_backbones:
            for name in AVERAGES:
                row = table.loc[(backbone, name)]
                metric = {"accuracy": "accuracy", "macro_avg": "macro_f1", "weighted_avg": "weighted_f1"}[name]
                specs = {"f1_score": ".3f", "published_f1_score": ".2f", "f1_score_difference": "+.2f"}
                rows.append([backbone, self.labels(f"metric.{metric}"), *self._cells(row, specs)])
        heads = self._heads("backbone", "row", "#ours", "#published", "#difference")
        return heads, rows, "classification_reports.csv"

    def _table_costs(self):
        table = self.tables["costs.csv"]
        specs = {"train_s": ",.0f", "core_hours": ",.2f", "n_parameters_whole": ",d"}
        specs |= {"model_mb": ",.1f", "images_per_second": ",.0f"}
        specs = {name: spec for name, spec in specs.items() if table[name].notna().any()}
        rows = []
        for row in table.to_dict("records"):
            score = self._cell(row["value"], ".3f") + self._interval(row["ci_low"], row["ci_high"])
            rows.append([self.labels(f"strategy.{row['strategy']}"), row["backbone"], score, *self._cells(row, specs)])
        heads = [*self._heads("strategy", "backbone"), (self.labels("metric.macro_f1"), True)]
        return [*heads, *self._heads(*(f"#{name}" for name in specs))], rows, "costs.csv"

    def _table_rates(self):
        specs = {"rate": "g", "val_macro_f1": ".3f", "epochs": ".0f", "n_networks": ",d", "n_kept": ",d"}
        rows = []
        for row in self.tables["rates.csv"].to_dict("records"):
            rows.append([self.labels(f"strategy.{row['strategy']}"), row["backbone"], *self._cells(row, specs)])
        return self._heads("strategy", "backbone", *(f"#{name}" for name in specs)), rows, "rates.csv"

    def _table_runs(self):
        table = self.tables["runs.csv"]
        seconds = [name for name in table.columns if name.endswith("_s")]
        rows = []
        for row in table.to_dict("records"):
            times = [self._cell(row[name], ",.1f") for name in seconds] + [self._cell(row["core_hours"], ",.2f")]
            days = [Markup('<time datetime="{}">{}</time>').format(row[name], _minute(row[name])) for name in _MOMENTS]
            rows.append([row["backbone"], self.labels(f"strategy.{row['strategy']}"), *times, *days])
        heads = [(self._step(name), True) for name in seconds]
        return [*self._heads("backbone", "strategy"), *heads, *self._heads("#core_hours", *_MOMENTS)], rows, "runs.csv"

    def _step(self, name):
        """Return the heading of a duration: ``features_native_s`` is the features' step under native scaling."""
        step, *scaling = name.removesuffix("_s").split("_")
        words = [self.labels.known("step", step), *(self.labels.known("scaling", word) for word in scaling)]
        return f"{', '.join(words)} (s)"

    def _table_fingerprints(self):
        rows = []
        for row in self.tables["fingerprints.csv"].to_dict("records"):
            group = "split_policy" if row["kind"] == "split" else "strategy"
            group = "dataset" if row["kind"] == "data" else group
            name = ", ".join(self.labels.known(group, word) for word in row["name"].split(", "))
            value = Markup("<code>{}</code>").format(row["value"])
            if row["kind"] == "weights":
                source, _, rest = row["value"].partition(" ")
                value = Markup("{} <code>{}</code>").format(self.labels.known("source", source), rest)
            rows.append([self.labels(f"kind.{row['kind']}"), name, value])
        return self._heads("kind", "name", "value"), rows, "fingerprints.csv"


def _data(value, shown, part=""):
    """Return a number of a table as HTML that carries its value, and which part of its cell it is."""
    part = Markup(' class="{}"').format(part) if part else ""
    return Markup('<data value="{}"{}>{}</data>').format(value, part, shown)


def _anchor(kind, name, context):
    """Return the anchor of a figure or table: its name and what it is shown for."""
    words = [getattr(value, "key", str(value)) for value in context.values()]
    return "-".join([kind, name, *words]).replace(".", "-").replace("_", "-").lower()


def _report_folder(output, study):
    if not output:
        return ROOT / "runs" / "interactive" / "report" / study
    return Path(output).parent / "report" / study if Path(output).name == "runs" else Path(output)


def _minute(moment):
    """Shorten a moment in ISO 8601 to the minute: ``2026-01-02 03:04``."""
    return str(moment)[:16].replace("T", " ")
