"""The slides, from the executed report notebook to one HTML file; its look in a browser where there is one."""

import json
import re
import shutil
import subprocess
from importlib import metadata

import nbformat
import pytest
from fabricated import STUDIES
from in_process import run_notebook
from pages import parse, typed_words

import skin_tl
import skin_tl.reporting.pictures
import skin_tl.reporting.report
from skin_tl.errors import SkinTLError
from skin_tl.files import ROOT
from skin_tl.reporting import rendering, slides
from skin_tl.reporting.pieces import Piece
from skin_tl.reporting.texts import languages, to_html
from skin_tl.schema import CLASSES

NOTEBOOK = ROOT / "notebooks" / "3_report.ipynb"
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def deck(executed):
    """The slides of the executed report notebook: what `executed` gives, file, page and soup."""
    file = executed["folder"] / f"slides.{executed['language']}.html"
    slides.render_slides(executed["executed"], file)
    page = file.read_text(encoding="utf-8")
    return executed | {"file": file, "page": page, "soup": parse(page)}


def sections(deck):
    return deck["soup"].all("section")


# The deck --------------------------------------------------------------------------------------------------------


def test_slides_stand_in_the_order_of_the_presentation(deck):
    order = ["title-slide", "plan", "cnns", "cnn-operations", "transfer-learning", "transfer-in-cnns", "objectives"]
    order += ["data-set", "examples", "set-up", "training", "results"]
    order += ["confusion-vgg16", "confusion-resnet50", "report-vgg16", "report-resnet50"]
    order += ["comparison-feature_extraction-lesion-native", "melanoma", "published", "discussion", "leakage"]
    order += ["other-splits", "conclusion", "conclusion-model", "limits"]
    assert [section.get("id") for section in sections(deck)] == order


def test_slides_show_the_figures_and_tables_of_the_report(deck):
    shown = {section.get("id"): section for section in sections(deck)}
    setup = "feature-extraction-lesion-native"
    for place, backbone in enumerate(("vgg16", "resnet50")):
        (figure,) = shown[f"confusion-{backbone}"].all("figure")
        assert figure.get("id") == f"figure-confusion-matrices-{setup}-{place}"
        assert len(figure.all("svg")) == 1
        (table,) = [e for e in shown[f"report-{backbone}"].all("div") if (e.get("id") or "").startswith("table-")]
        assert table.get("id") == f"table-classification-report-{setup}-{backbone}"
        assert len(table.all("tr")) == 1 + 10
    report = nbformat.read(deck["executed"], as_version=4)
    drawings = "".join(html for html, _ in rendering.pieces_of(report))
    for drawing in re.findall(r"<svg .*?</svg>", deck["page"], re.DOTALL):
        assert drawing in drawings


def test_every_number_of_the_prose_is_a_fact(deck):
    facts = json.loads((deck["folder"] / "facts.json").read_text(encoding="utf-8"))
    shown = [element for element in deck["soup"].all("data") if element.get("data-fact")]
    assert len(shown) > 60
    for element in shown:
        assert element.get("value") == str(facts[element.get("data-fact")]["value"])
    for element in deck["soup"].all("p", "li", "figcaption", "h1", "h2"):
        if not element.inside("table") and element.get("class") != "foot":
            assert not re.search(r"\d", typed_words(element)), typed_words(element)


def test_deck_is_in_its_language_and_small(deck):
    assert deck["soup"].all("html")[0].get("lang") == deck["language"]
    words = {"en": ("slides", "next slide"), "fr": ("diaporama", "diapositive suivante")}[deck["language"]]
    assert deck["soup"].all("title")[0].text.endswith(words[0])
    assert json.dumps(words[1]) in deck["page"]
    assert len(deck["page"].encode()) < 5e6


def test_deck_asks_the_network_for_nothing(deck):
    for element in deck["soup"]:
        for name in ("src", "srcset", "href", "xlink:href", "data", "action", "poster"):
            address = element.get(name) or ""
            if element.tag != "a":
                assert not address or address.startswith(("data:", "#")), (element.tag, address)
    assert not deck["soup"].all("iframe", "object", "embed")
    styles = "".join(element.text for element in deck["soup"].all("style"))
    assert "@import" not in styles and not re.findall(r"url\((?!data:)", styles)
    for script in deck["soup"].all("script"):
        addresses = set(re.findall(r"https?://[\w./-]+", script.text))
        assert addresses <= {"https://revealjs.com", "https://hakim.se"}, (
            "the notice of reveal.js' licence, nothing else"
        )


def test_links_lead_to_slides_and_files_beside(deck):
    ids = [element.get("id") for element in deck["soup"] if element.get("id")]
    assert len(ids) == len(set(ids))
    slide_ids = {section.get("id") for section in sections(deck)}
    report = "report.html" if deck["language"] == "en" else f"report.{deck['language']}.html"
    links = [element.get("href") for element in deck["soup"].all("a")]
    assert report in links
    for link in links:
        assert link[1:] in slide_ids if link.startswith("#") else link == report or (deck["folder"] / link).is_file()


def test_every_figure_keeps_its_text(deck):
    figures = deck["soup"].all("figure")
    assert len(figures) > 8
    for figure in figures:
        for picture in figure.all("img") or [element for element in figure if element.get("role") == "img"]:
            assert len(picture.get("alt") or picture.get("aria-label")) > 8
    (one,) = [figure for figure in figures if "confusion" in figure.get("id") and figure.get("id").endswith("-0")]
    (panels,) = [element for element in one if element.get("role") == "img"]
    assert "VGG16" in panels.get("aria-label") and "ResNet50" not in panels.get("aria-label")


def test_every_slide_says_what_the_study_is_not(deck):
    texts, labels = deck["report"].texts, deck["report"].labels
    notes = [texts.caption("banners", kind, "short") for kind in ("synthetic", "random")]
    notes.append(labels("page.not_a_diagnosis"))
    for place, section in enumerate(sections(deck), start=1):
        (foot,) = [element for element in section.all("p") if element.get("class") == "foot"]
        assert all(note in foot.text for note in notes)
        assert f"{place} / {len(sections(deck))}" in foot.text
    banners = [element.get("class") for element in sections(deck)[0].all("p")]
    assert "banner synthetic" in banners and "banner random" in banners


def test_same_notebook_same_deck(deck, tmp_path):
    slides.render_slides(deck["executed"], tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == deck["page"]
    assert not re.search(r"20\d\d-\d\d-\d\d", re.sub(r"<(svg|script) .*?</\1>", "", deck["page"], flags=re.DOTALL))


def test_the_page_of_the_report_has_no_slides(deck):
    notebook = nbformat.read(deck["executed"], as_version=4)
    assert 'class="slide' in deck["page"]
    page = rendering.page_of(notebook)
    html = page["header"] + "".join(section["html"] for section in page["sections"])
    assert slides.deck_of(notebook)["opening"] not in html and "conclusion-model" not in html


# Every study -----------------------------------------------------------------------------------------------------


class Drawing:
    """Stands in for a drawing, and for a list of one."""

    def __init__(self, *arguments, **options):
        pass

    def __iter__(self):
        yield self

    def get_size_inches(self):
        return 4, 3


class Figures:
    """Stands in for skin_tl.reporting.figures: whatever is to be drawn is one empty drawing."""

    DIAGNOSES = dict.fromkeys(CLASSES, "#000000")

    def backbone_style(self, backbone):
        return "#000000", "o"

    def __getattr__(self, name):
        return Drawing

    def to_svg(self, drawing, prefix):
        return "<svg></svg>"

    def example_pictures(self, images, metadata, n_examples):
        return {}

    def explained_picture(self, pixels, heat):
        return ""


@pytest.mark.parametrize("language", languages())
@pytest.mark.parametrize("name", STUDIES)
def test_slides_ask_each_study_s_report_for_what_it_shows(make, monkeypatch, root, name, language):
    changes, options = STUDIES[name]
    report = make(f"fits_{name}", changes, language, **options)
    monkeypatch.setenv("SKIN_TL_CACHE", str(root / "cache"))
    monkeypatch.setattr(skin_tl.reporting, "figures", Figures())
    for module in (skin_tl.reporting.report, skin_tl.reporting.pictures):
        monkeypatch.setattr(module, "figures", Figures())
    monkeypatch.setattr(skin_tl.reporting.report, "Report", lambda *arguments: report)
    deck = slides.deck_of(run_notebook(NOTEBOOK))
    ids = [slide["id"] for slide in deck["slides"]]
    for backbone in report.study.backbones:
        assert {f"confusion-{backbone.lower()}", f"report-{backbone.lower()}"} <= set(ids)
    assert ("preprocessing" in ids) == (len(report.study.preprocessings) > 1)
    assert ("external" in ids) == (name == "lesion")
    text = " ".join(parse(slide["html"]).text for slide in deck["slides"])
    assert not re.search(r"[{}]|\bNone\b|\bnan\b|  +[.,;]| [.,]", text), text
    shown = {re.search(r'id="([^"]+)"', piece)[1] for slide in deck["slides"] for piece in slide["shown"]}
    repeats = name == "reproduction"
    policy = "image-unit" if repeats else f"{report.main.split_policy}-native"
    policy = f"{report.main.strategy.replace('_', '-')}-{policy}"
    first = report.study.backbones[0].lower()
    assert f"table-classification-report-{policy}-{first}" in shown
    assert len([one for one in ids if one.startswith("comparison-")]) == 1 + repeats


# Wrong words -----------------------------------------------------------------------------------------------------

PAGE = {"language": "en", "title": "T", "running": "", "words": {}, "page_of": ["", "", ""]}
SEVERAL = (
    '<figure id="figure-b">\n<div class="panels several" role="img" aria-label="all">\n'
    '<div class="panel tall"><svg>0</svg></div>\n<div class="panel"><svg>1</svg></div>\n</div>\n'
    "<figcaption>c</figcaption>\n</figure>"
)


def notebook_of(words, n_decks=1):
    deck = Piece("", slides={"html": to_html(words), "notes": ["note"], "words": {"slides": "s"}})
    pieces = [
        Piece('<h1 id="title">T</h1>', PAGE),
        Piece('<h2 id="a-section">S</h2>'),
        Piece('<figure id="figure-a"><div class="panels" aria-label="a"></div></figure>'),
        Piece(SEVERAL),
        Piece('<div class="table x" id="table-c"></div>'),
        *[deck] * n_decks,
    ]
    cells = [nbformat.v4.new_code_cell() for _ in pieces]
    for cell, piece in zip(cells, pieces, strict=True):
        data, about = piece._repr_mimebundle_()
        cell.outputs = [nbformat.v4.new_output("display_data", data, metadata=about)]
    return nbformat.v4.new_notebook(cells=cells)


def test_a_slide_holds_words_and_what_it_shows():
    words = "Opening.\n\n## One {#one}\n\nWords.\n\n![](#figure-a)\n\n## Two {#two}\n\n![](#table-c)"
    words += "\n\n## Three {#three}\n\nX.\n\n## Four {#four}\n\nX.\n\n![only *this* one](#figure-b/1)\n"
    deck = slides.deck_of(notebook_of(words))
    assert "Opening." in deck["opening"] and "One" not in deck["opening"]
    assert [(slide["id"], slide["title"], slide["kind"]) for slide in deck["slides"]] == [
        ("one", "One", "below"),
        ("two", "Two", "shown"),
        ("three", "Three", "words"),
        ("four", "Four", "beside"),
    ]
    assert deck["slides"][0]["html"] == "<p>Words.</p>"
    (panel,) = deck["slides"][3]["shown"]
    expected = SEVERAL.replace('<div class="panel tall"><svg>0</svg></div>\n', "").replace(" several", "")
    assert panel == expected.replace('"figure-b"', '"figure-b-1"').replace('"all"', '"only this one"')


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "## S {#s}\n\n![](#figure-x)",
            r"asks for #figure-x, .* Name one of figure-a, figure-b, table-c",
        ),
        ("## S {#s}\n\nBeside ![](#figure-a) words.", "slide s: a picture stands"),
        ("## S {#s}\n\n![](picture.png)", "slide s: a picture stands"),
    ],
)
def test_wrong_words_are_one_clear_error(words, message):
    with pytest.raises(SkinTLError, match=message):
        slides.deck_of(notebook_of(words))


@pytest.mark.parametrize("n_decks", [0, 2])
def test_a_notebook_with_another_number_of_decks_is_refused(tmp_path, n_decks):
    nbformat.write(notebook_of("## S {#s}", n_decks), tmp_path / "report.ipynb")
    with pytest.raises(SkinTLError, match=rf"{n_decks} decks.*report\.slides\(\)"):
        slides.render_slides(tmp_path / "report.ipynb", tmp_path / "slides.html")
    with pytest.raises(SkinTLError, match="is missing"):
        slides.render_slides(tmp_path / "absent.ipynb", tmp_path / "slides.html")
    assert not list(tmp_path.glob("*.html"))


def test_a_title_from_outside_is_escaped():
    notebook = notebook_of("## S {#s}")
    notebook.cells[0].outputs[0].metadata["skin_tl"]["page"]["title"] = "<script>alert(1)</script>"
    page = slides.to_html(notebook)
    assert "<script>alert" not in page
    assert parse(page).all("title")[0].text.startswith("<script>alert(1)</script>")


# The package of reveal.js ----------------------------------------------------------------------------------------


def test_reveal_is_of_a_version_that_the_slides_know():
    found = slides.reveal()
    assert "MIT licensed" in found["script"] and ".reveal .slides" in found["style"]
    assert re.search(r"scrollActivationWidth", found["script"])
    assert metadata.version(slides.PACKAGE).startswith("1.")
    assert not any(f"</{kind}" in text.lower() for kind, text in found.items())  # which would end it inside a page


# In a browser ----------------------------------------------------------------------------------------------------

# Goes through the slides and leaves, in the place of the page, what stands outside of its slide or below its foot.
MEASURE = """<script>
function outside(slide) {
  const frame = slide.getBoundingClientRect(), foot = slide.querySelector(".foot").getBoundingClientRect(), found = [];
  const all = "h1, h2, p, li, figcaption, figure, svg, img, .scroll, table, tr, th, td";
  for (const element of slide.querySelectorAll(all)) {
    if (element.parentElement.closest(deck ? "svg" : "svg, .scroll") || element.className == "foot") continue;
    const box = element.getBoundingClientRect(), place = slide.parentElement.id + " " + element.tagName;
    if (box.left < 0 || box.right > Math.max(frame.right, innerWidth) + 1) found.push(place);
    if (deck && box.right > frame.right + 1 || box.bottom > foot.top + 1) found.push(place);
    if (box.width < 20 || box.height < 10) found.push(place + " is tiny");
  }
  return found;
}
function measure() {
  const slides = [...document.querySelectorAll(".slide")], found = [];
  slides.forEach((slide, place) => { if (deck) Reveal.slide(place); found.push(...outside(slide)); });
  if (document.documentElement.scrollWidth > innerWidth) found.push("the page");
  document.body.innerText = "measured " + JSON.stringify([deck, slides.length, found]);
}
const wait = () => !deck || document.querySelector(".reveal.ready") ? measure() : setTimeout(wait, 50);
addEventListener("load", () => setTimeout(wait, 50));
</script>"""


@pytest.mark.skipif(not BROWSER, reason="needs chromium")
@pytest.mark.parametrize("size", ["1280,720", "800,600", "390,844"])
def test_nothing_is_outside_of_its_slide(deck, tmp_path, size):
    page = tmp_path / "measured.html"
    page.write_text(deck["page"].replace("</body>", MEASURE + "</body>"), encoding="utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += [f"--window-size={size}", "--virtual-time-budget=10000", "--enable-logging=stderr", "--dump-dom"]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=180)
    measured = re.search(r"measured (\[.*?\])</body>", done.stdout, re.DOTALL)
    assert measured, done.stderr[-2000:]
    as_deck, n_slides, outside = json.loads(measured[1])
    assert as_deck == (size != "390,844") and n_slides == len(sections(deck))
    assert not outside
    assert ":CONSOLE" not in done.stderr, done.stderr
