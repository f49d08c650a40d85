"""The report's pieces: what the cells of the report notebook call.

Takes a study's name and a language; gives pieces of HTML (prose, figures, tables, example pictures), each shown by a
notebook as it is and put together to one page by `skin_tl.rendering`.  Every piece says which headings it has, every
figure has a text for readers who do not see it, and whatever comes from the metadata is escaped.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from markupsafe import Markup

from skin_tl import figures, runs
from skin_tl.errors import SkinTLError
from skin_tl.facts import collect_facts
from skin_tl.files import ROOT
from skin_tl.study import CLASSES
from skin_tl.tables import AVERAGES, SCORES, TEXTS, read_metrics, read_study_files, report_tables
from skin_tl.texts import Labels, Texts, format_number, format_p, languages, without_tags

_GRID = "display:grid;gap:12px;align-items:start;grid-template-columns:repeat(auto-fit,minmax(min(100%,360px),1fr))"
"""Panels stand beside each other where there is room; written into each figure, for it holds in a notebook too."""


_MOMENTS = ("started", "finished")


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
    files : skin_tl.tables.StudyFiles
    tables : dict of pandas.DataFrame
        By the name of their CSV file.
    facts : skin_tl.facts.Facts
    labels : skin_tl.texts.Labels
    setups : list of skin_tl.tables.Setup
    main : skin_tl.tables.Setup
        The set-up that the conclusions rest on.

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
        self.folder = _report_folder(output, self.study["name"])
        metrics = read_metrics(self.files, self.folder)
        self.tables = report_tables(self.files, metrics)
        self.facts = collect_facts(self.tables)
        self.setups, self.main = self.files.setups, self.files.main_setup
        self.labels, self.language = Labels(language, texts), language
        published = set(self.tables["published_results.csv"]["backbone"])
        self.published_backbones = [name for name in self.study["backbones"] if name in published]
        self.texts = Texts(language, self.facts, self._context(), texts)
        self._numbers = {}

    def _context(self):
        """Return what the templates may look at: flags, names and lists, no numbers to be shown."""
        study = self.study
        moved = self.tables["contrasts.csv"].query("factor == 'preprocessing' and metric == 'macro_f1'")
        same = self.tables["backbones.csv"]["parameters_difference"].dropna() == 0
        repeats = [s for s in self.files.setups if s.split_policy == "image" and s.preprocessing == "unit"]
        return {
            "study": study,
            "synthetic": self.files.synthetic,
            "random_weights": self.files.random_weights,
            "overrides": study.get("overrides", []),
            "classes": CLASSES,
            "backbones": study["backbones"],
            "published_backbones": self.published_backbones,
            "strategies": study["strategies"],
            "strategy_names": [self.labels(f"strategy.{name}") for name in study["strategies"]],
            "split_policies": study["split_policies"],
            "preprocessings": study["preprocessings"],
            "n_seeds": len(study["seeds"]),
            "setups": self.files.setups,
            "main": self.files.main_setup,
            "reproduction": repeats[0] if repeats else None,
            "parameters_agree": bool(same.all()),
            "rank_changes": bool((moved["rank_a"] != moved["rank_b"]).any()),
            "setup_name": self.setup_name,
            "anchor": lambda setup: setup.key.replace(".", "-"),
            "figure": lambda name, **context: f"#{_anchor('figure', name, context)}",
            "table": lambda name, **context: f"#{_anchor('table', name, context)}",
            "ranked": self.ranked,
            "as_list": lambda value: [str(v) for v in (value if isinstance(value, list) else [value])],
        }

    # What a cell may ask

    def setup_name(self, setup):
        """Return a set-up in words; strategies are named where the study has several."""
        words = [self.labels(f"split_policy.{setup.split_policy}"), self.labels(f"preprocessing.{setup.preprocessing}")]
        if len(self.study["strategies"]) > 1:
            words.insert(0, self.labels(f"strategy.{setup.strategy}"))
        return ", ".join(words)

    def ranked(self, setup, metric):
        """Return the backbones of a set-up, the highest score first."""
        scores = setup.of(self.tables["scores.csv"])
        return scores[scores["metric"] == metric].sort_values("rank")["backbone"].tolist()

    def contrasts(self, metric):
        """Return the comparisons of set-ups that differ in one thing, grouped by (factor, strategy, held level)."""
        table = self.tables["contrasts.csv"]
        return table[table["metric"] == metric].groupby(["factor", "strategy", "other"], sort=False)

    def numbers(self, spec=",d", **keys):
        """Return facts as text for a drawing's words: ``numbers(images="data.all.n_images")``."""
        return {name: format_number(self.facts[key].value, spec, self.language) for name, key in keys.items()}

    # Pieces

    def _banners(self):
        """Return what the study is not: (kind, text, short text) of each banner."""
        kinds = {
            "synthetic": self.files.synthetic,
            "random": self.files.random_weights,
            "narrowed": bool(self.study.get("overrides")),
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
        name, title = self.study["name"], self.study["title"]
        title = title if (known := self.labels.known("title", name)) == name else known
        page = {
            "language": self.language,
            "title": title,
            "running": " · ".join(short),
            "words": {key: self.labels(f"page.{key}") for key in ("contents", "skip")},
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
        drawings : skin_tl.figures.Drawing or list of it
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
            widest = drawing.get_figwidth() * 96 * 1.2
            panels.append(f'<div class="panel" style="max-width:{widest:.0f}px">{svg}</div>')
        alt = " ".join(without_tags(self.texts.caption("figures", name, "alt", **context)).split())
        body = Markup('<div class="panels{}" role="img" aria-label="{}" style="{}">\n{}\n</div>').format(
            " several" if several else "", alt, _GRID, Markup("\n".join(panels))
        )
        caption = self.texts.caption("figures", name, "caption", **context)
        return Piece(self._captioned(anchor, "figure", number, body, caption, data))

    def examples(self, n_examples=5):
        """Return pictures of each diagnosis from the decoded images, each with a text of its own."""
        images = runs.read_images(self.files.folder)
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

        ``slides.md`` holds one slide per heading.  A line ``![](#figure-…)`` stands for the figure or table of the report
        with that anchor, ``{{ figure(name, setup=…) }}`` gives the anchor of one that depends on a set-up, and
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

    def _cell(self, value, spec):
        if value is None or pd.isna(value):
            return "–"
        return Markup('<data value="{}">{}</data>').format(value, format_number(value, spec, self.language))

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

    def _table_scores(self, setup):
        table = setup.of(self.tables["scores.csv"]).set_index(["backbone", "metric"])
        spread = table["seed_sd"].notna().any()
        rows = []
        for backbone in self.ranked(setup, "macro_f1"):
            cells = []
            for metric in SCORES:
                row = table.loc[(backbone, metric)]
                low, high = (format_number(row[name], ".2f", self.language) for name in ("ci_low", "ci_high"))
                interval = Markup(' <span class="interval">[{}–{}]</span>').format(low, high)
                cells.append(self._cell(row["value"], ".3f") + interval)
            if spread:
                cells.append(self._cell(table.loc[(backbone, "macro_f1"), "seed_sd"], ".3f"))
            rows.append([backbone, *cells])
        heads = [(self.labels(f"metric.{metric}"), True) for metric in SCORES]
        heads = [*self._heads("backbone"), *heads, *(self._heads("#seed_sd") if spread else [])]
        return heads, rows, "scores.csv"

    def _table_comparisons(self, setup):
        table = setup.of(self.tables["comparisons.csv"])
        metrics = list(dict.fromkeys(table["metric"]))
        rows = []
        for (a, b), pair in table.groupby(["backbone_a", "backbone_b"], sort=False):
            cells = []
            for metric in metrics:
                row = pair[pair["metric"] == metric].iloc[0]
                low, high = (format_number(row[name], "+.2f", self.language) for name in ("ci_low", "ci_high"))
                p = format_p(row["p_holm"], self.language)
                words = Markup(' <span class="interval">[{}; {}] {}</span>').format(low, high, p)
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
            rows.append([name, *self._cells(row, specs)])
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

    def _table_runs(self):
        table = self.tables["runs.csv"]
        seconds = [name for name in table.columns if name.endswith("_s")]
        rows = []
        for row in table.to_dict("records"):
            times = [self._cell(row[name], ",.1f") for name in seconds]
            days = [Markup('<time datetime="{}">{}</time>').format(row[name], _minute(row[name])) for name in _MOMENTS]
            rows.append([row["backbone"], self.labels(f"strategy.{row['strategy']}"), *times, *days])
        heads = [(self._step(name), True) for name in seconds]
        return [*self._heads("backbone", "strategy"), *heads, *self._heads(*_MOMENTS)], rows, "runs.csv"

    def _step(self, name):
        """Return the heading of a duration: ``features_native_s`` is the features' step under native scaling."""
        step, *scaling = name.removesuffix("_s").split("_")
        words = [self.labels.known("step", step), *(self.labels.known("scaling", word) for word in scaling)]
        return f"{', '.join(words)} (s)"

    def _table_fingerprints(self):
        rows = []
        for row in self.tables["fingerprints.csv"].to_dict("records"):
            group = "split_policy" if row["kind"] == "split" else "strategy"
            name = ", ".join(self.labels.known(group, word) for word in row["name"].split(", "))
            rows.append([self.labels(f"kind.{row['kind']}"), name, Markup("<code>{}</code>").format(row["value"])])
        return self._heads("kind", "name", "value"), rows, "fingerprints.csv"


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
