"""Checklists: what reporting guidelines ask for, and where the report answers.

In: ``report/text/checklists.csv`` (by entry, the items of each guideline that ask the same) and, in each language,
``checklists.yaml`` (by entry, what is asked and the answer, a template as all texts).  Out: rows of tables, one for
each part.  A further guideline is a column of the CSV file.
"""

from __future__ import annotations

import pandas as pd
from markupsafe import Markup

from skin_tl.errors import SkinTLError
from skin_tl.evaluation.study_files import TEXTS
from skin_tl.reporting.texts import Texts, read_yaml

FILE = TEXTS / "checklists.csv"


def read_items() -> pd.DataFrame:
    """Read the items of the guidelines: indexed by part and entry, one column of text for each guideline."""
    return pd.read_csv(FILE, dtype=str, keep_default_na=False).set_index(["part", "entry"])


def checklist_rows(texts: Texts) -> dict[str, list[list[Markup | str]]]:
    """Answer the entries of the checklists.

    Returns
    -------
    dict of list of list of str
        By part, the rows: what is asked, the answer as HTML, and the items of each guideline (a dash where it has
        none).

    Raises
    ------
    SkinTLError
        If the language has other entries than the CSV file, or an answer asks for a fact that is not there.
    """
    path, items = texts.folder / "checklists.yaml", read_items()
    answers = read_yaml(path)
    entries = set(items.index.get_level_values("entry"))
    if set(answers) != entries:
        other = ", ".join(sorted(set(answers) ^ entries))
        raise SkinTLError(f"{path} and {FILE} do not have the same entries: {other}. Add what one of them lacks.")
    words = {name: Markup(f"*{texts.labels(f'checklist.{name}')}*") for name in ("absent", "unknown")}
    rows: dict[str, list[list[Markup | str]]] = {}
    for (part, entry), numbers in items.iterrows():
        asked, answer = (texts.line(source, f"{path.name}, {entry}", **words) for source in answers[entry])
        row = [asked, answer, *(", ".join(number.split()) or "–" for number in numbers)]
        rows.setdefault(part, []).append(row)
    return rows
