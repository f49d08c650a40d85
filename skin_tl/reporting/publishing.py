"""Publishing: finished reports for readers who run nothing, with what README and an index page say of them.

Takes ``runs/<study>/`` and ``report/<study>/``; gives ``report/published/<study>/`` (the pages, their tables, the study
as it ran and the predictions that all numbers rest on), ``report/published/index.html`` and the findings of README.md.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from skin_tl.errors import SkinTLError
from skin_tl.evaluation.study_files import Setup, read_study_files
from skin_tl.files import ROOT, write_atomically, write_text
from skin_tl.reporting.findings import WITHOUT_WEIGHTS, Published, blocks, published
from skin_tl.reporting.rendering import TEMPLATE
from skin_tl.reporting.texts import Labels, languages, templates
from skin_tl.schema import CONFIDENCE, ENSEMBLE, SETUP
from skin_tl.study import command_of, save_study

DIGITS = "%.9g"
"""How probabilities are written in the published predictions: all digits of float32.  Fewer tie those near 1, and with
them the ranks that ROC AUC and average precision rest on."""

MARKS = ("<!-- {}: written by `./run_all.sh publish` -->\n", "<!-- end of the {} -->\n")
"""Around each of `BLOCKS` in README.md."""

ENDINGS = {language: "" if language == "en" else f".{language}" for language in languages()}


def publish(name: str, root: Path = ROOT) -> Path:
    """Copy a study's finished report, without pictures, to where it is published, and list it.

    Parameters
    ----------
    name
        Of a study that was run with ``images: false``, or whose images are synthetic.
    root
        Holds ``runs/``, ``report/`` and README.md.

    Returns
    -------
    pathlib.Path
        ``report/published/<study>``: the pages in each language, all tables, facts.json, study.json, and
        predictions.csv.xz with the predictions of the test subset (of the study's own arm, of the validation subset
        too, which thresholds rest on).

    Raises
    ------
    SkinTLError
        If the study is not finished, or its pages show pictures that must not be shared.
    """
    files = read_study_files(name, root)
    study, source = files.study, root / "report" / name
    pages = [source / f"report{ending}.html" for ending in ENDINGS.values()]
    tables = [*sorted(source.glob("*.csv")), source / "facts.json"]
    for file in (*pages, *tables):
        if not file.is_file():
            raise SkinTLError(f"{file} is missing. Run `{command_of(name)}` first.")
    if not study.synthetic and (study.images or any("data:image/jpeg" in page.read_text() for page in pages)):
        raise SkinTLError(
            f"{source} shows pictures of the data set, whose licence forbids sharing them freely. Run "
            f"`{command_of(name)} --config images=false` first."
        )
    predictions = files.predictions
    kept = predictions[(predictions["subset"] == "test") | (predictions["arm"] == "main")]
    target = root / "report" / "published" / name
    with write_atomically(target) as part:
        part.mkdir(parents=True)
        for file in (*pages, *tables):
            shutil.copy(file, part)
        save_study(study, part / "study.json")
        kept.to_csv(part / "predictions.csv.xz", index=False, float_format=DIGITS)
    list_published(root)
    return target


def list_published(root: Path = ROOT) -> None:
    """Write the index page of all published reports, and the generated blocks of README.md."""
    folder = root / "report" / "published"
    parts = []
    for labels in map(Labels, ENDINGS):
        studies = published(root, labels)
        for study in studies:
            write_text(study.folder / f"summary{ENDINGS[labels.language]}.svg", study.figure[0])
        parts.append({"labels": labels, "studies": [_about(study) for study in studies]})
    page = templates(TEMPLATE, autoescape=True).get_template("published.html.j2")
    write_text(folder / "index.html", page.render(parts=parts, endings=ENDINGS, level=_level))
    write_text(root / "README.md", generated(root))


def generated(root: Path = ROOT) -> str:
    """Return README.md with its generated blocks written from the published studies."""
    text = (root / "README.md").read_text(encoding="utf-8")
    for name, content in blocks(root).items():
        before, start, rest = text.partition(MARKS[0].format(name))
        _, end, after = rest.partition(MARKS[1].format(name))
        text = f"{before}{start}{content}{end}{after}" if end else text
    return text


def _about(study: Published) -> dict[str, Any]:
    """Return what the index page says of a published study."""
    labels, folder = study.labels, study.folder
    scores, beside, rows = pd.read_csv(folder / "scores.csv"), [*study.study.backbones], []
    scores = scores[scores["metric"] == "macro_f1"]
    beside += [ENSEMBLE] if len(beside) > 1 else []
    for names in scores.loc[scores["kind"] == "backbone", SETUP].drop_duplicates().itertuples(index=False):
        setup = Setup(*names)
        words = [labels(f"{column}.{name}") for column, name in zip(SETUP, names, strict=True)]
        if setup.strategy == "feature_extraction":
            words.insert(1, labels(f"features.{study.study.features}"))
        own = setup.of(scores).set_index("backbone").loc[beside]
        without = setup.baselines_of(scores).nlargest(1, "value").iloc[0]
        best = f"{_interval(without, labels)}, {labels('backbone.' + without['backbone'])}"
        rows.append([", ".join(words), *(_interval(row, labels) for _, row in own.iterrows()), best])
        control = own[["random_value", "random_low", "random_high"]].set_axis(_VALUES, axis=1)
        if control["value"].notna().any():
            cells = [_interval(row, labels) for _, row in control.iterrows()]
            rows.append([", ".join([*words, labels("weights.random")]), *cells, "–"])
    commits, precisions = (sorted(study.runs[name].dropna().unique()) for name in ("git_commit", "precision"))
    how = {"command": study.command, "commit": ", ".join(commits), "precision": ", ".join(precisions)}
    return {
        "name": study.name,
        "title": study.title,
        "made": labels("published.put_together" if len(commits) > 1 else "published.made", **how),
        "head": [labels("metric.macro_f1"), *(labels.known("backbone", name) for name in beside), labels("no_network")],
        "rows": rows,
        "tables": [file.name for file in sorted(folder.glob("*.csv"))],
        "pixels": study.study.image_size,
        "seeds": len(study.study.seeds),
        "sizes": _sizes(study) if study.reduced else {},
        "alt": study.figure[1],
        "not_run": [
            labels("published.no_weights" if name in WITHOUT_WEIGHTS else "published.to_follow", name=name)
            for name in study.not_run
        ],
    }


def _sizes(study: Published) -> dict[str, str]:
    """Return width × height of a study's images, and of those that were published."""
    facts = {"size": "image_size.1", "published": "literature"}
    return {
        field: f"{study.number(f'{key}.width', 'd')} × {study.number(f'{key}.height', 'd')}"
        for field, key in facts.items()
    }


def _level(labels: Labels) -> str:
    return labels.number(CONFIDENCE, ".0%")


_VALUES = ["value", "ci_low", "ci_high"]


def _interval(row: pd.Series, labels: Labels) -> str:
    value, low, high = ("" if pd.isna(row[name]) else labels.number(row[name], ".2f") for name in _VALUES)
    return f"{value} ({low}–{high})" if value else "–"
