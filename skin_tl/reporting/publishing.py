"""Publishing: finished reports for readers who run nothing, with what README and an index page say of them.

Takes ``runs/<study>/`` and ``report/<study>/``; gives ``report/published/<study>/`` (the pages, their tables, the study
as it ran and the predictions that all numbers rest on), ``report/published/index.html`` and the findings of README.md.
"""

from __future__ import annotations

import shlex
import shutil
import textwrap
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from skin_tl.errors import SkinTLError
from skin_tl.evaluation.study_files import Setup, read_study_files
from skin_tl.files import ROOT, read_json, write_atomically, write_text
from skin_tl.reporting.rendering import TEMPLATE
from skin_tl.reporting.texts import Labels, languages
from skin_tl.schema import CONFIDENCE, ENSEMBLE, SETUP
from skin_tl.study import Study, check_study, command_of, save_study

DIGITS = "%.6g"
"""How probabilities are written in the published predictions."""

MARKS = ("<!-- findings: written by `./run_all.sh publish` -->\n", "<!-- end of the findings -->\n")
"""Around the findings in README.md."""

WIDTH = 120
"""Of a line of README.md."""

ORDER = ("presentation", "ham10000", "fine_tuning", "transfer")
"""In which studies are listed; others follow by name."""

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
    """Write the index page of all published reports, and the findings of README.md."""
    folder, readme = root / "report" / "published", root / "README.md"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    speaking = [Labels(language) for language in ENDINGS]
    parts = [{"labels": labels, "studies": _studies(folder, labels)} for labels in speaking]
    page = environment.get_template("published.html.j2")
    write_text(folder / "index.html", page.render(parts=parts, endings=ENDINGS, level=_level))
    before, _, rest = readme.read_text(encoding="utf-8").partition(MARKS[0])
    write_text(readme, before + MARKS[0] + findings(root) + MARKS[1] + rest.partition(MARKS[1])[2])


def findings(root: Path = ROOT) -> str:
    """Return what README.md says of the published reports: lists in Markdown, from their CSV files."""
    studies = _studies(root / "report" / "published", Labels("en"))
    lines = []
    for study in studies:
        lines += [f"[{study['title']}](report/published/{study['name']}/report.html)", f"(`{study['command']}`):", ""]
        for what, *cells in study["rows"]:
            said = (f"{name} {cell}" for name, cell in zip(study["head"][1:], cells, strict=True) if cell)
            lines += textwrap.wrap(
                f"- {what}: {', '.join(said)}.", WIDTH, subsequent_indent="  ", break_on_hyphens=False
            )
        lines.append("")
    return "\n".join(lines) + "\n"


def _studies(folder: Path, labels: Labels) -> list[dict[str, Any]]:
    """Return what is said of each published study in one language."""
    found = [file.parent for file in folder.glob("*/study.json")]
    known = {name: place for place, name in enumerate(ORDER)}
    return [_about(one, labels) for one in sorted(found, key=lambda one: (known.get(one.name, len(ORDER)), one.name))]


def _about(folder: Path, labels: Labels) -> dict[str, Any]:
    study = check_study(read_json(folder / "study.json"), source=folder / "study.json")
    runs, scores = pd.read_csv(folder / "runs.csv"), pd.read_csv(folder / "scores.csv")
    scores, beside, rows = scores[scores["metric"] == "macro_f1"], [*study.backbones], []
    beside += [ENSEMBLE] if len(beside) > 1 else []
    for names in scores.loc[scores["kind"] == "backbone", SETUP].drop_duplicates().itertuples(index=False):
        setup = Setup(*names)
        words = [labels(f"{column}.{name}") for column, name in zip(SETUP, names, strict=True)]
        if setup.strategy == "feature_extraction":
            words.insert(1, labels(f"features.{study.features}"))
        own = setup.of(scores).set_index("backbone").loc[beside]
        without = setup.baselines_of(scores).nlargest(1, "value").iloc[0]
        best = f"{_interval(without, labels)}, {labels('backbone.' + without['backbone'])}"
        rows.append([", ".join(words), *(_interval(row, labels) for _, row in own.iterrows()), best])
        control = own[["random_value", "random_low", "random_high"]].set_axis(_VALUES, axis=1)
        if control["value"].notna().any():
            cells = [_interval(row, labels) for _, row in control.iterrows()]
            rows.append([f"{words[0]}, {labels('weights.random')}", *cells, ""])
    return {
        "name": study.name,
        "title": labels.known("title", study.title),
        "command": _command(study),
        "commit": ", ".join(sorted(runs["git_commit"].dropna().unique())),
        "head": [labels("metric.macro_f1"), *(labels.known("backbone", name) for name in beside), labels("no_network")],
        "rows": rows,
    }


def _level(labels: Labels) -> str:
    return labels.number(CONFIDENCE, ".0%")


_VALUES = ["value", "ci_low", "ci_high"]


def _interval(row: pd.Series, labels: Labels) -> str:
    value, low, high = ("" if pd.isna(row[name]) else labels.number(row[name], ".2f") for name in _VALUES)
    return f"{value} ({low}–{high})" if value else ""


def _command(study: Study) -> str:
    """Return the command that a study was run with."""
    given = []
    for key in study.overrides:
        value = getattr(study, key)
        text = ",".join(str(one) for one in value) if isinstance(value, list) else str(value)
        given.append(shlex.quote(f"{key}={text.lower() if isinstance(value, bool) else text}"))
    return command_of(study.name) + (f" --config {' '.join(given)}" if given else "")
