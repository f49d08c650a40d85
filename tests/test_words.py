"""Prose uses the field's standard terms: texts of the report, README, docs, messages and the notebooks' cells of prose.

To ban a word, add it to `INSTEAD` with what to write; patterns ignore case.  Code, keys and addresses do not count.
"""

import json
import re

import pytest
import yaml
from test_messages import lines_said, messages

from skin_tl.evaluation.study_files import TEXTS
from skin_tl.files import ROOT

INSTEAD = {
    "en": {
        r"(more than|may be|by|up to) chance": "statistically significant, random",
        r"came out so|come out so": "were obtained, differ from ours",
        r"(learned|learnt) on (photographs|images)": "pretrained on ImageNet",
        r"by heart": "overfitting, memorised",
        r"in vain": "false alarms",
        r"looked for": "target",
        r"too kind|flatter": "optimistically biased, overstates",
        r"kind scores": "optimistically biased scores",
        r"what .{1,30} buys": "gains from",
        r"nobody picked": "chosen by a fixed rule",
        r"\bnev(us|i)\b": "naevus",
        r"(color|behavior|gray|center)(s|ed|ing)?\b|(anal|paral)yz": "colour, analyse: British spelling",
        r"(normal|regular|optim|general|recogn|initial|standard)iz(e|ed|es|ing|ation)\b": "-ise: British spelling",
    },
    "fr": {
        r"plus que le hasard|dû au hasard": "statistiquement significatif",
        r"photographies du quotidien": "ImageNet",
        r"par cœur": "surapprentissage, mémorisé",
        r"en vain": "fausses alertes",
        r"flatte": "biaisé à la hausse",
        r"pas de sœurs": "une seule image par lésion",
        r"réseaux? de base|colonnes? vertébrales?": "dorsale",
        r"(sous-)?ensembles? de (test|validation)": "jeu de test, de validation",
        r"sous-ensembles? d['’]entra[iî]nement": "jeu d'entraînement",
        r"\bsupports?\b": "effectif",
        r"\bnae?vus": "nævus",
    },
}
"""By language: what is written nowhere, and the term that stands there instead."""


def _values(content: object) -> list[str]:
    """Return the strings of a YAML file, without its keys."""
    if isinstance(content, dict):
        return [text for value in content.values() for text in _values(value)]
    return [str(content)]


def _prose() -> dict[str, tuple[str, str]]:
    """Return language and text by file."""
    found = {}
    for folder in (TEXTS / language for language in INSTEAD):
        for path in folder.iterdir():
            text = path.read_text(encoding="utf-8")
            found[f"{folder.name}/{path.name}"] = (
                folder.name,
                ("\n".join(_values(yaml.safe_load(text))) if path.suffix == ".yaml" else text),
            )
    for path in (ROOT / "README.md", *ROOT.glob("docs/*.md"), ROOT / "notebooks" / "README.md"):
        found[str(path.relative_to(ROOT))] = "en", path.read_text(encoding="utf-8")
    found["usage.txt"] = "en", (ROOT / "skin_tl" / "workflow" / "usage.txt").read_text(encoding="utf-8")
    for place, text in [*messages(), *lines_said()]:
        module = place.partition(":")[0]
        found[module] = "en", f"{found.get(module, ('', ''))[1]}\n{text}"
    for path in ROOT.glob("notebooks/*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        prose = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
        found[str(path.relative_to(ROOT))] = "en", "\n".join(prose)
    return found


NO_WORDS = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|<!--.*?-->|```.*?```|`[^`\n]*`|\]\([^)]*\)|https?://\S+", re.DOTALL)
"""What is no prose: templates' expressions, code and addresses."""


def banned(text: str, language: str) -> list[str]:
    """Return the words of a text that have a better term, each with it."""
    text = " ".join(NO_WORDS.sub(" ", text).split())
    return [
        f"{match[0]!r}: {term}" for word, term in INSTEAD[language].items() for match in re.finditer(word, text, re.I)
    ]


@pytest.mark.parametrize(("file", "language", "text"), [(file, *found) for file, found in sorted(_prose().items())])
def test_standard_terms(file, language, text):
    assert not banned(text, language), file


def test_words_are_found_across_lines_and_not_in_code():
    assert banned("It was learned by\nheart.", "en")
    assert banned("Un neavus, un naevus", "fr") == ["'naevus': nævus"]
    assert not banned('`color` {{ fact("color") }} [map](color.md)', "en")
