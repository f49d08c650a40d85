"""The checklists of reporting guidelines: which items they have, and what an answer is."""

import itertools
import re
import shutil

import pytest
from fabricated import STUDIES

from skin_tl.errors import SkinTLError
from skin_tl.evaluation.study_files import TEXTS
from skin_tl.reporting.checklists import checklist_rows, read_items
from skin_tl.reporting.report import Report
from skin_tl.reporting.texts import languages

LETTERS = {3: "abc", 5: "ab", 6: "abc", 8: "abc", 9: "abc", 12: "abcdefg", 18: "abcdef", 20: "abc", 23: "ab", 27: "abc"}
ITEMS = {
    "claim": [str(item) for item in range(1, 45)],
    "tripod_ai": [f"{item}{letter}" for item in range(1, 28) for letter in LETTERS.get(item, [""])],
    "stard_ai": [
        f"{item}{letter}"
        for item in range(1, 41)
        for letter in {15: "abcd", 16: "abc", 17: "ab", 26: "ab", 40: "ab"}.get(item, [""])
    ],
}
"""The numbers of the items, as CLAIM (2024), TRIPOD+AI (2024) and STARD-AI (2025) have them."""


@pytest.mark.parametrize("guideline", ITEMS)
def test_each_item_of_a_guideline_has_its_row(guideline):
    items = read_items()
    assert list(items.columns) == list(ITEMS)
    found = " ".join(items[guideline]).split()
    # An item that asks for several things may stand in two rows.
    assert set(found) == set(ITEMS[guideline])


@pytest.mark.parametrize("language", languages())
@pytest.mark.parametrize("name", STUDIES)
def test_an_answer_is_a_place_a_fact_or_a_reason(make, name, language):
    changes, options = STUDIES[name]
    report = make(f"fits_{name}", changes, language, **options)
    words = [report.labels(f"checklist.{word}") for word in ("absent", "unknown")]
    for asked, answer, *_ in itertools.chain(*checklist_rows(report.texts).values()):
        assert asked and not re.search(r"[{}]|\bNone\b|\bnan\b|  +[.,;]| [.,]", answer), answer
        reasons = [answer.partition(word)[2].removeprefix("</em>").strip() for word in words]
        assert 'href="#' in answer or "data-fact" in answer or max(map(len, reasons)) > 20, answer


def test_an_entry_without_an_answer_fails(make, tmp_path):
    report = make("fits_demo", {})
    texts = tmp_path / "text"
    shutil.copytree(TEXTS, texts)
    path = texts / "en" / "checklists.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("funding:", "founding:"), encoding="utf-8")
    spoilt = Report(str(report.files.folder / "study.json"), "en", tmp_path / "report", texts)
    with pytest.raises(SkinTLError, match=r"checklists\.yaml.*founding, funding"):
        checklist_rows(spoilt.texts)
