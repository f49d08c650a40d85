"""The documentation: its links lead somewhere, README is short, keys and versions are those of the program."""

import os
import re
import tomllib

import pytest
import yaml

from skin_tl.files import ROOT, write_text
from skin_tl.settings import Settings

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
KEYS = ("<!-- keys -->\n", "<!-- end of keys -->")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    text = re.sub(r"^(```|    ).*?$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("https://"):
            continue
        target, _, heading = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        assert file.is_file() and file.is_relative_to(ROOT), f"{page.name}: {link}"
        headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), flags=re.MULTILINE) if heading else []
        assert not heading or heading in [re.sub(r"[^\w -]", "", one).lower().replace(" ", "-") for one in headings]


def test_each_page_of_the_documentation_is_reached_from_the_readme():
    assert "](docs/README.md)" in PAGES[0].read_text(encoding="utf-8")
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in PAGES[1:] if page.name != "README.md" and f"]({page.name})" not in index] == []


def test_the_readme_is_read_in_a_few_minutes():
    lines = PAGES[0].read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 110
    assert [line for line in lines if len(line) > 120 and "](" not in line] == []


def test_the_citation_has_the_version_and_the_licence_of_the_project():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith(f"{project['license']} License")


def test_the_keys_of_a_study_are_documented():
    """With SKIN_TL_WRITE_DOCS=1, the table of docs/studies.md is written."""
    page = ROOT / "docs" / "studies.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(KEYS[0])
    written = before + KEYS[0] + _table_of_keys() + KEYS[1] + rest.partition(KEYS[1])[2]
    if os.environ.get("SKIN_TL_WRITE_DOCS"):
        write_text(page, written)
    assert page.read_text(encoding="utf-8") == written


def _table_of_keys():
    """Return a table of all keys with defaults and meanings, as `Settings` has them."""
    attributes = re.search(r"\n    Attributes\n    -+\n(.*)", Settings.__doc__, re.DOTALL)[1]
    meanings = {}
    for names, meaning in re.findall(r"^    (\w[\w, ]*)\n((?:        .*\n?)+)", attributes, re.MULTILINE):
        for name in names.split(", "):
            meanings[name] = " ".join(meaning.split()).replace("``", "`")
    keys = {key: field for key, field in Settings.model_fields.items() if key != "overrides"}
    assert {*keys} <= {*meanings}, {*keys} - {*meanings}
    lines = ["| key | default | meaning |", "|---|---|---|"]
    for key, field in keys.items():
        default = "required" if field.is_required() else f"`{_in_yaml(field.default)}`"
        lines.append(f"| `{key}` | {default} | {meanings[key]} |")
    return "\n".join(lines) + "\n"


def _in_yaml(value):
    if isinstance(value, list):
        return f"[{', '.join(_in_yaml(one) for one in value)}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else f"{value}"
