"""Reading the report in a browser: its look, every control, and what is left without scripts and on paper."""

import csv
import io
import re
import shutil
from contextlib import contextmanager

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

from skin_tl.files import write_text
from skin_tl.reporting import rendering, slides
from skin_tl.reporting.texts import Labels

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(not BROWSER, reason="needs chromium")

SIZES = {"phone": (390, 844), "laptop": (1280, 800), "screen": (1920, 1080)}


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def read(executed, browser):
    """Open the report's page, or another file beside it: `open_page` below."""
    folder, language = executed["folder"], executed["language"]
    report, deck = folder / f"read.{language}.html", folder / f"read_slides.{language}.html"
    notebook = rendering.read_notebook(executed["executed"])
    write_text(report, rendering.to_html(notebook))
    write_text(deck, slides.to_html(notebook))

    @contextmanager
    def open_page(size="laptop", file=report, before="", allowed=(), unfolded=True, **options):
        """Open a page in a window of its own; fail if it writes to the console or asks the network for anything.

        The parts of the appendix are opened, so that all of the page is looked at, unless `unfolded` is false.
        """
        width, height = SIZES[size]
        options = {"viewport": {"width": width, "height": height}, "locale": language} | options
        context = browser.new_context(reduced_motion="reduce", **options)
        context.grant_permissions(list(allowed))
        context.add_init_script(before)
        page, complaints = context.new_page(), []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: complaints.append(request.url) if beyond(request.url, file) else None)
        page.goto(file.as_uri())
        if unfolded:
            page.locator("main details").evaluate_all("all => all.forEach(one => { one.open = true; })")
        yield page
        context.close()
        assert not complaints

    open_page.labels, open_page.language, open_page.deck = Labels(language), language, deck
    return open_page


def beyond(address, file):
    return not address.startswith("data:") and address.partition("#")[0] != file.as_uri()


# What stands outside of the window, or of the box that it belongs to.
OUTSIDE = """() => {
  const found = document.documentElement.scrollWidth > innerWidth ? ["the page"] : [];
  for (const element of document.querySelectorAll("main *, .colours, .colours *, .contents.wide *")) {
    if (element.closest("svg, .scroll, .running") && !element.matches("svg, .scroll")) continue;
    const { left, right, width } = element.getBoundingClientRect();
    if (width && (left < -1 || right > innerWidth + 1)) found.push(element.tagName + " " + element.className);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
@pytest.mark.parametrize("size", SIZES)
def test_nothing_is_outside_of_the_window(read, size, scheme):
    with read(size, color_scheme=scheme) as page:
        assert page.evaluate(OUTSIDE) == []
        assert page.locator("main figure").count() > 10


@pytest.mark.parametrize("size", ["laptop", "screen"])
def test_the_answer_is_on_the_first_screen(read, size):
    with read(size) as page:
        answer = page.locator('section[aria-labelledby="in-short"]')
        assert answer.locator("> p").count() == 4
        for part in (answer.locator("> p").last, answer.locator("figure svg")):
            box = part.bounding_box()
            assert box["y"] + box["height"] < SIZES[size][1]


# Contents --------------------------------------------------------------------------------------------------------

CURRENT = "[...document.querySelectorAll('.contents [aria-current]')].map(link => link.hash.slice(1))"


@pytest.mark.any_language
@pytest.mark.parametrize("size", ["phone", "laptop"])
def test_the_contents_follow_the_reader(read, size):
    with read(size) as page:
        names = page.evaluate("[...document.querySelectorAll('.contents.wide a')].map(link => link.hash.slice(1))")
        assert len(names) > 20
        # Far and near, down and up; the last ones may be too near the end of the page to come to its top.
        for name in [names[0], names[12], names[11], names[3], names[17], names[-4], names[1]]:
            page.evaluate("name => document.getElementById(name).scrollIntoView()", name)
            page.wait_for_function(f"name => {CURRENT}.join() === [name, name].join()", arg=name, timeout=5000)
            if size == "laptop":
                link = page.locator(f'.contents.wide a[href="#{name}"]').bounding_box()
                assert 0 <= link["y"] < SIZES[size][1]
            else:
                title = page.locator(f'[id="{name}"]').inner_text()
                assert page.locator(".contents.narrow .place").inner_text() == title


@pytest.mark.any_language
def test_a_link_of_the_contents_leads_to_its_section(read):
    with read("phone") as page:
        page.evaluate("document.querySelector('#answer-benefits').scrollIntoView()")
        page.wait_for_function(f"{CURRENT}.includes('answer-benefits')")
        place = page.locator("#answer-benefits").bounding_box()
        page.locator(".contents.narrow summary").click()
        assert page.locator("#answer-benefits").bounding_box() == place, "the page moves away below the contents"
        page.locator('.contents.narrow a[href="#results"]').click()
        assert page.evaluate("location.hash") == "#results"
        assert not page.evaluate("document.querySelector('.contents.narrow').open")
        bar, heading = (page.locator(name).bounding_box() for name in (".contents.narrow", "#results"))
        assert bar["y"] + bar["height"] <= heading["y"] + heading["height"] < SIZES["phone"][1] / 2


@pytest.mark.any_language
def test_the_first_key_leads_past_the_contents(read):
    with read() as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.keyboard.press("Enter")
        assert page.evaluate("location.hash") == "#title"


@pytest.mark.any_language
def test_a_link_into_a_fold_opens_it(read):
    with read(unfolded=False) as page:
        folds = page.locator("main details")
        assert folds.count() > 0 and page.locator("main details[open]").count() == 0
        heading = folds.first.locator("summary h3")
        assert heading.is_visible() and not folds.first.locator("p, figure").first.is_visible()
        page.locator(f'.contents.wide a[href="#{heading.get_attribute("id")}"]').click()
        assert folds.first.locator("p, figure").first.is_visible()
        assert page.locator("main details[open]").count() == 1
        heading.click()
        assert page.locator("main details[open]").count() == 0


# Colours ---------------------------------------------------------------------------------------------------------


def is_dark(page):
    """Return whether letters are brighter than their ground, which on paper is none."""
    colours = page.evaluate(
        "(({ color, backgroundColor }) => [color, backgroundColor])(getComputedStyle(document.body))"
    )
    words, ground = ([int(number) for number in re.findall(r"\d+", colour)] for colour in colours)
    return sum(words) > sum(ground if len(ground) == 3 else (255, 255, 255))


def choose(page, read, choice):
    page.get_by_role("button", name=read.labels(f"page.{choice}"), exact=True).click()


CHOICE = "skin-tl-colours"  # the key that reader.js stores a choice by


@pytest.mark.any_language
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_system_until_the_reader_chooses(read, scheme):
    other = {"light": "dark", "dark": "light"}[scheme]
    with read(color_scheme=scheme) as page:
        assert is_dark(page) == (scheme == "dark")
        choose(page, read, other)
        assert is_dark(page) == (other == "dark")
        assert page.evaluate(f"localStorage.getItem('{CHOICE}')") == other
        page.emulate_media(color_scheme=other)
        choose(page, read, "system")
        assert is_dark(page) == (other == "dark")
        page.emulate_media(color_scheme=scheme)
        assert is_dark(page) == (scheme == "dark")
        choose(page, read, "dark")
        page.emulate_media(media="print")
        assert not is_dark(page), "paper is white"


@pytest.mark.any_language
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_choice_of_colours_is_remembered(read, scheme):
    # Stored before the page is read: Chromium keeps what a page stores in its own time, at times after a reload.
    other = {"light": "dark", "dark": "light"}[scheme]
    with read(before=f"localStorage.setItem('{CHOICE}', '{other}')", color_scheme=scheme) as page:
        assert is_dark(page) == (other == "dark")
        pressed = page.locator(".colours [aria-pressed=true]")
        assert pressed.count() == 1 and pressed.inner_text() == read.labels(f"page.{other}")


@pytest.mark.any_language
def test_colours_can_be_chosen_where_nothing_may_be_stored(read):
    forbid = "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('no'); }});"
    with read(before=forbid) as page:
        assert not is_dark(page)
        choose(page, read, "dark")
        assert is_dark(page)


# Tables ----------------------------------------------------------------------------------------------------------

CELLS = """() => [...document.querySelectorAll(".table:not(.checklists) table")].map(table => [...table.rows].map(row =>
  [...row.cells].map(cell => ({
    text: cell.textContent.replace(/\\s+/g, " ").trim(),
    numbers: [...cell.querySelectorAll("data")].map(data => [data.className, data.getAttribute("value")]),
  }))))"""

SORTED = """() => [...document.querySelectorAll(".table:not(.checklists) table")].map(table =>
  [...table.querySelectorAll(".sort")].map(button => [1, 2, 3].map(() => {
    button.click();
    const head = button.closest("th"), others = [...table.querySelectorAll("[aria-sort]")].filter(one => one !== head);
    const cells = [...table.tBodies[0].rows].map(row => row.cells[head.cellIndex].textContent.trim());
    return [head.getAttribute("aria-sort"), others.length, cells];
  })))"""


def seen(text, language):
    """Return what a reader takes a cell for: its first number, or its words."""
    decimal, thousands = (",", "[ \u202f\u00a0]") if language == "fr" else (r"\.", ",")
    number = re.match(rf"(?:p\s[=<]\s)?([−+]?\d+(?:{thousands}\d{{3}})*(?:{decimal}\d+)?)(?![\d\w-])", text)
    if not number:
        return None if text == "–" else text
    plain = re.sub(thousands, "", number[1]).replace("−", "-").replace(",", ".")
    return float(plain)


def test_every_column_sorts_both_ways_and_the_first_order_returns(read):
    with read() as page:
        tables, clicked = page.evaluate(CELLS), page.evaluate(SORTED)
        assert sum(map(len, clicked)) > 60
        for table, columns in zip(tables, clicked, strict=True):
            if len(table) < 3:  # one row has no order
                assert not columns
                continue
            assert len(columns) == len(table[0])
            for place, (up, down, back) in enumerate(columns):
                first = [row[place]["text"] for row in table[1:]]
                assert [up[0], down[0], back[0]] == ["ascending", "descending", None]
                assert up[1] == down[1] == 0, "two columns say that the table is sorted by them"
                assert [re.sub(r"\s+", " ", text) for text in back[2]] == first
                ascending, descending = ([seen(text, read.language) for text in cells] for _, _, cells in (up, down))
                for values in (ascending, descending[::-1]):
                    numbers = [value for value in values if isinstance(value, float)]
                    assert numbers == sorted(numbers), values
                for values in (ascending, descending):
                    assert None not in values[: len(values) - values.count(None)], "gaps stand at the end"
                assert sorted(map(str, ascending)) == sorted(map(str, descending))


@pytest.mark.any_language
def test_sorting_by_keyboard_is_said(read):
    with read() as page:
        control = page.locator(".table.scores .sort").nth(1)
        control.focus()
        page.keyboard.press("Enter")
        name = read.labels("metric.accuracy")
        assert page.get_by_role("status").inner_text() == read.labels("page.ascending", name=name)
        assert page.evaluate("document.activeElement.textContent") == name
        for _ in range(2):
            page.keyboard.press("Space")
        assert page.get_by_role("status").inner_text() == read.labels("page.unsorted")


def expected_csv(table, labels):
    """Write a table as CSV: a column for each part of a number, with the number behind what is shown."""
    parts = [list(dict.fromkeys(["", *(part for row in table[1:] for part, _ in row[place]["numbers"])]))
             for place in range(len(table[0]))]  # fmt: skip
    lines = [[]]
    for cell, names in zip(table[0], parts, strict=True):
        lines[0] += [f"{cell['text']}, {labels(f'page.{name}')}" if name else cell["text"] for name in names]
    for row in table[1:]:
        line = []
        for cell, names in zip(row, parts, strict=True):
            numbers = dict(cell["numbers"])
            words = "" if numbers or cell["text"] == "–" else cell["text"]
            line += [numbers.get(name, "" if name else words) for name in names]
        lines.append(line)
    return lines


@pytest.mark.any_language
def test_every_table_is_copied_as_csv(read):
    with read(allowed=["clipboard-read", "clipboard-write"]) as page:
        tables = page.evaluate(CELLS)
        controls = page.get_by_role("button", name=read.labels("page.copy"))
        assert controls.count() == len(tables)
        for place, table in enumerate(tables):
            controls.nth(place).click()
            name = page.locator(".table:not(.checklists) .count").nth(place).inner_text().rstrip(".")
            done = read.labels("page.copied", name=name, rows=len(table) - 1)
            page.wait_for_function("done => document.querySelector('.said').textContent === done", arg=done)
            copied = list(csv.reader(io.StringIO(page.evaluate("navigator.clipboard.readText()"))))
            assert copied == expected_csv(table, read.labels)
            assert len({len(line) for line in copied}) == 1


@pytest.mark.any_language
def test_a_wide_table_fades_where_columns_follow(read):
    with read("phone") as page:
        wide = "[...document.querySelectorAll('.scroll')].filter(box => box.scrollWidth > box.clientWidth + 1)"
        faded = f"{wide}.map(box => box.classList.contains('more'))"
        page.wait_for_function(f"{faded}.length > 5 && {faded}.every(one => one)")
        assert page.locator(".scroll.more").count() == page.evaluate(f"{wide}.length"), "narrow ones do not"
        mask = "getComputedStyle(document.querySelector('.scroll.more')).maskImage"
        assert "gradient" in page.evaluate(mask)
        page.emulate_media(media="print")
        assert page.evaluate(mask) == "none"
        page.emulate_media(media="screen")
        page.evaluate(f"{wide}.forEach(box => box.scrollLeft = box.scrollWidth)")
        page.wait_for_function("!document.querySelector('.scroll.more')")


@pytest.mark.any_language
def test_a_copied_cell_is_not_executed_by_a_spreadsheet(read):
    change = "document.querySelector('.table tbody tr').cells[0].textContent = '=1+1'"
    with read(allowed=["clipboard-read", "clipboard-write"]) as page:
        page.evaluate(change)
        page.get_by_role("button", name=read.labels("page.copy")).first.click()
        page.wait_for_function("document.querySelector('.said').textContent !== ''")
        copied = list(csv.reader(io.StringIO(page.evaluate("navigator.clipboard.readText()"))))
        assert copied[1][0] == "'=1+1"


@pytest.mark.any_language
def test_where_copying_is_refused_the_text_is_shown_to_be_copied_by_hand(read):
    refuse = "navigator.clipboard.writeText = () => Promise.reject(new DOMException('no', 'NotAllowedError'));"
    with read(before=refuse) as page:
        control = page.get_by_role("button", name=read.labels("page.copy")).first
        control.click()
        dialog = page.get_by_role("dialog")
        assert read.labels("page.not_copied") in dialog.inner_text()
        text = page.evaluate("getSelection().toString() || document.activeElement.value")
        assert list(csv.reader(io.StringIO(text))) == expected_csv(page.evaluate(CELLS)[0], read.labels)
        page.keyboard.press("Escape")
        assert dialog.count() == 0
        assert control.evaluate("one => one === document.activeElement")


# Figures ---------------------------------------------------------------------------------------------------------


@pytest.mark.any_language
@pytest.mark.parametrize("size", ["phone", pytest.param("laptop", marks=pytest.mark.slow)])
def test_every_figure_opens_large_and_returns(read, size):
    with read(size) as page:
        before = page.evaluate("document.querySelector('main').innerHTML")
        figures = page.locator("main figure")
        for place in range(figures.count()):
            figure = figures.nth(place)
            control = figure.locator("button")  # by role, the whole page is gone through
            drawing = figure.locator("svg, img").first
            width = drawing.bounding_box()["width"]
            control.focus()
            page.keyboard.press("Enter")
            dialog = page.locator("dialog[open]")
            shown = dialog.locator("svg, img").first
            assert shown.bounding_box()["width"] >= width
            if size == "phone" and dialog.locator("svg").count():
                assert shown.bounding_box()["width"] > 1.4 * width
            box = dialog.bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= SIZES[size][0]
            for _ in range(3):
                page.keyboard.press("Tab")
                inside = "document.activeElement === document.body || !!document.activeElement.closest('dialog')"
                assert page.evaluate(inside), "the focus leaves the dialog"
            page.keyboard.press("Escape")
            assert dialog.count() == 0 and drawing.bounding_box()["width"] == width
            assert control.evaluate("one => one === document.activeElement"), "the focus does not return"
        assert page.evaluate("document.querySelector('main').innerHTML") == before


@pytest.mark.any_language
def test_a_figure_opens_by_a_click_and_closes_by_button_and_beside(read):
    with read() as page:
        picture = page.locator("main figure .panels").first
        for close in (
            lambda: page.get_by_role("button", name=read.labels("page.close")).click(),
            lambda: page.mouse.click(5, 5),
        ):
            picture.click()
            assert page.get_by_role("dialog").count() == 1
            close()
            assert page.get_by_role("dialog").count() == 0


# Without scripts, and on paper -----------------------------------------------------------------------------------


@pytest.mark.any_language
def test_without_scripts_everything_is_there_and_no_control(read):
    with read() as page:
        page.locator(".tools").evaluate_all("all => all.forEach(one => one.remove())")
        with_scripts = page.locator("main").inner_text()
        n_drawings = page.locator("main svg:visible, main img:visible").count()
    for size in SIZES:
        with read(size, java_script_enabled=False) as page:
            assert page.locator("button, dialog").count() == 0
            assert page.locator("main svg:visible, main img:visible").count() == n_drawings > 20
            if size == "laptop":
                assert " ".join(page.locator("main").inner_text().split()) == " ".join(with_scripts.split())
            assert page.locator("nav.contents a, .contents summary").locator("visible=true").count() > 0


@pytest.mark.any_language
def test_controls_do_not_print(read):
    with read() as page:
        page.locator(".table.scores .sort").nth(1).click()
        page.emulate_media(media="print")
        assert page.locator(".tools:visible, .colours:visible, .said:visible").count() == 0
        head = page.locator(".table.scores th").nth(1)
        assert head.evaluate("one => getComputedStyle(one.querySelector('.sort'), '::after').content") in (
            "none",
            "normal",
        )
        assert page.evaluate("getComputedStyle(document.querySelector('.sort')).textDecorationLine") == "none"


# For everybody ---------------------------------------------------------------------------------------------------


def violations(page, context=None):
    """Return the serious and critical violations that axe-core finds."""
    found = Axe().run(page, context, {"resultTypes": ["violations"]}).response["violations"]
    return [
        (one["id"], one["impact"], [node["html"][:200] for node in one["nodes"]])
        for one in found
        if one["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize(
    ("size", "scheme"),
    [
        ("phone", "light"),
        pytest.param("laptop", "dark", marks=pytest.mark.any_language),
        pytest.param("phone", "dark", marks=pytest.mark.slow),
        pytest.param("laptop", "light", marks=pytest.mark.slow),
    ],
)
def test_axe_finds_no_serious_violation(read, size, scheme):
    with read(size, color_scheme=scheme) as page:
        page.locator(".table.scores .sort").nth(1).click()
        assert violations(page) == []
        page.locator("main figure").nth(1).get_by_role("button").click()
        # The page, and words of drawings, were looked at above; in a dialog, axe takes the page for the ground of some.
        assert violations(page, {"include": [["dialog[open]"]], "exclude": [["svg"]]}) == []


def test_axe_finds_no_serious_violation_in_the_slides(read):
    with read("phone", file=read.deck) as page:
        assert violations(page) == []


@pytest.mark.any_language
def test_axe_would_find_one(read):
    """The check can fail: a text in pale grey, and a picture without words."""
    with read() as page:
        page.evaluate("document.querySelector('main p').style.color = '#cccccc'")
        page.evaluate("document.querySelector('main .panels').removeAttribute('aria-label')")
        spoilt = {"include": [["main p"], ["main .panels"]], "exclude": [["svg"]]}
        assert {"color-contrast", "role-img-alt"} <= {one for one, *_ in violations(page, spoilt)}
