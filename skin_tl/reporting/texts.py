"""Words: the report's prose, captions and labels in one language, with numbers as that language writes them.

Takes the sources below ``report/text/<language>/`` (Markdown templates, ``labels.yaml``, ``captions.yaml``) and
`skin_tl.reporting.facts.Facts`; gives HTML in which every number carries the key of its fact.  Whatever is missing, a
file, a key or a fact, is an error.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import mistune
import yaml
from markupsafe import Markup

from skin_tl.errors import SkinTLError
from skin_tl.evaluation.study_files import TEXTS

if TYPE_CHECKING:
    from skin_tl.reporting.facts import Fact, Facts

NARROW_SPACE = "\u202f"
NO_BREAK_SPACE = "\u00a0"
MINUS = "\u2212"

SEPARATORS = {"en": (",", ".", ""), "fr": (NARROW_SPACE, ",", NARROW_SPACE)}
"""By language: what groups thousands, the decimal mark, and what stands before a percent sign."""


def languages() -> list[str]:
    """Return the languages that the report can be written in, sorted list of str."""
    return sorted(path.parent.name for path in TEXTS.glob("*/labels.yaml"))


def format_number(value: float, spec: str, language: str = "en") -> str:
    """Write a number as a language writes it.

    Parameters
    ----------
    value
        NaN gives an en dash.
    spec
        Of Python's format mini-language, for example ``,d``, ``.2f``, ``+.2f`` or ``.0%``.
    language
        A key of `SEPARATORS`.

    Returns
    -------
    str
        With a true minus sign; a value that rounds to zero has no sign.

    Examples
    --------
    >>> format_number(10015, ",d")
    '10,015'
    >>> format_number(0.5, ".0%")
    '50%'
    """
    if value != value:
        return "–"
    if spec.endswith("d"):
        value = round(value)
    text = format(value, spec)
    if "e" in text:  # no powers of ten: 0.00001
        text = f"{Decimal(text):f}"
    if not re.search("[1-9]", text):
        text = text.lstrip("+-")
    thousands, decimal, percent = SEPARATORS[language]
    marks = {",": thousands, ".": decimal, "%": f"{percent}%", "-": MINUS}
    return "".join(marks.get(letter, letter) for letter in text)


def format_p(value: float, language: str = "en") -> str:
    """Write a p-value: ``p = 0.012``, or ``p < 0.001``, with spaces at which no line breaks."""
    smallest = 0.001
    sign, shown = ("<", smallest) if value < smallest else ("=", value)
    return f"p{NO_BREAK_SPACE}{sign}{NO_BREAK_SPACE}{format_number(shown, '.3f', language)}"


def typeset(text: str, language: str) -> str:
    """Put typographic apostrophes and spaces at which no line breaks.

    These stand around × and, in French, in F1 macro, before ; : ! ? » % and after «.
    """
    text = re.sub(r"(?<=\w)'(?=[\w\s*\[])", "’", text).replace(" × ", f"{NO_BREAK_SPACE}×{NO_BREAK_SPACE}")
    if language != "fr":
        return text
    text = re.sub(r" ([;!?%])", NARROW_SPACE + r"\1", text)
    text = re.sub(r"\b(F1|AUC) (?=(macro|pondéré|ROC)\b)", r"\1" + NO_BREAK_SPACE, text)
    text = re.sub(r" ([:»])", NO_BREAK_SPACE + r"\1", text)
    return re.sub(r"« ", "«" + NO_BREAK_SPACE, text)


class Labels:
    """The short words of figures and tables in one language.

    Parameters
    ----------
    language
        Names a folder below ``report/text/``.
    folder
        Holds the folders of languages.

    Raises
    ------
    SkinTLError
        When a label is first asked for, if the language has no ``labels.yaml``, or it is not valid.
    """

    def __init__(self, language: str = "en", folder: Path = TEXTS):
        self.language = language
        self.file = folder / language / "labels.yaml"

    @cached_property
    def _labels(self) -> dict[str, Any]:
        return read_yaml(self.file)

    def __call__(self, key: str, **fields: Any) -> str:
        """Return the label `key` (dots descend), its ``{fields}`` filled in."""
        found: Any = self._labels
        for part in key.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        if not isinstance(found, str):
            raise SkinTLError(f"{self.file} has no label `{key}`. Add it.")
        return typeset(found.format(**fields), self.language)

    def known(self, key: str, value: str) -> str:
        """Return the label ``key.value``, or `value` itself where the language has no word for it.

        For values of the metadata, which may be anything.
        """
        words = self._labels.get(key, {})
        return typeset(words[value], self.language) if value in words else value

    def number(self, value: float, spec: str) -> str:
        """Write a number as the language writes it; see `format_number`."""
        return format_number(value, spec, self.language)


ENGLISH = Labels("en")


def templates(*folders: Path, **options: Any) -> jinja2.Environment:
    """Return Jinja's environment of templates in these folders: unknown names are errors, blocks leave no line."""
    loader = jinja2.FileSystemLoader(folders)
    return jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True, **options)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file of the texts."""
    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # written in C, where PyYAML has it
        content = yaml.load(path.read_text(encoding="utf-8"), loader)
    except FileNotFoundError:
        raise SkinTLError(f"{path} is missing: the report has no text in this language. Add the file.") from None
    except yaml.YAMLError as error:
        raise SkinTLError(f"{path} is not valid YAML: {' '.join(str(error).split())}. Correct the file.") from None
    if not isinstance(content, dict):
        raise SkinTLError(f"{path} holds no `key: text` lines. Correct the file.")
    return content


class Texts:
    """The prose of the report in one language, filled with facts.

    Parameters
    ----------
    language
    facts
    context
        What templates may look at besides: flags and lists, never numbers to be shown.
    folder
        Holds the folders of languages.

    Notes
    -----
    Templates write ``{{ fact("best.….macro_f1.best_value", ".2f") }}`` to show a number, ``p_value(key)`` to show a
    p-value, ``interval(key, spec)`` for the ends of an interval, ``difference(key)`` for a difference with both,
    ``significance(real)`` for the words of a verdict, ``value(key)`` to decide by a fact, ``has(key)`` to ask whether
    there is one, ``label(key)`` for a word of ``labels.yaml`` and ``listing(items)`` for an enumeration.
    """

    def __init__(self, language: str, facts: Facts, context: dict[str, Any], folder: Path = TEXTS):
        self.language, self.facts, self.folder = language, facts, folder / language
        self.labels = Labels(language, folder)
        self._captions = read_yaml(self.folder / "captions.yaml")
        comments = {"comment_start_string": "<!--", "comment_end_string": "-->"}  # {# begins the id of a heading
        self._templates = templates(self.folder, autoescape=True, lstrip_blocks=True, **comments)
        self._templates.globals |= context | {
            "fact": self._fact,
            "p_value": self._p_value,
            "interval": self._interval,
            "difference": self._difference,
            "significance": lambda real: self.labels(f"significance.{'real' if real else 'open'}"),
            "value": lambda key: self._look_up(key).value,
            "has": lambda key: key in facts,
            "label": self.labels,
            "listing": self._listing,
        }

    def _look_up(self, key: str) -> Fact:
        if key not in self.facts:
            raise SkinTLError(f"no fact `{key}`. Name another one, or add it to FAMILIES in skin_tl/reporting/facts.py")
        return self.facts[key]

    def _fact(self, key: str, spec: str | None = None) -> Markup:
        """Return a fact as HTML that carries its key."""
        value = self._look_up(key).value
        shown = plain(value) if spec is None else format_number(value, spec, self.language)
        return fact_html(value, key, shown)

    def _p_value(self, key: str) -> Markup | str:
        """Return a p-value as HTML that carries its key: ``p = 0.012``, or ``p < 0.001``; in words if there is none."""
        if key not in self.facts and f"{key.rpartition('.')[0]}.real" in self.facts:
            return self.labels("not_testable")
        value = self._look_up(key).value
        return fact_html(value, key, format_p(value, self.language))

    def _interval(self, key: str, spec: str) -> Markup:
        """Return the ends of the interval of a fact: ``0.57 to 0.63``."""
        ends = {end: self._fact(f"{key}.{end}", spec) for end in ("low", "high")}
        return Markup(self.labels("interval", **ends))

    def _difference(self, key: str) -> Markup:
        """Return a paired difference with its interval and corrected p-value: ``+0.10 (+0.07 to +0.14; p < 0.001)``."""
        shown = {"value": self._fact(f"{key}.difference", "+.3f"), "interval": self._interval(key, "+.3f")}
        return Markup(self.labels("difference", p=self._p_value(f"{key}.p_holm"), **shown))

    def _listing(self, items: Iterable[object]) -> Markup:
        """Join items as an enumeration: ``A, B and C``."""
        shown = [item if isinstance(item, Markup) else plain(item) for item in items]
        if len(shown) < 2:
            return Markup("").join(shown)
        return Markup(", ").join(shown[:-1]) + f" {self.labels('and')} " + shown[-1]

    def prose(self, name: str, **context: Any) -> str:
        """Return the text ``<name>.md``, filled in, as HTML."""
        return to_html(typeset(self._render(f"{name}.md", **context), self.language))

    def caption(self, kind: str, key: str, part: str, **context: Any) -> str:
        """Return a part (title, caption, alt) of the entry `key` of `kind` in captions.yaml, as inline HTML."""
        try:
            source = self._captions[kind][key][part]
        except (KeyError, TypeError):
            raise SkinTLError(f"{self.folder / 'captions.yaml'} has no `{kind}: {key}: {part}`. Add it.") from None
        return typeset(self._render(source, f"captions.yaml, {kind}: {key}", **context).strip(), self.language)

    def line(self, source: str, place: str, **context: Any) -> Markup:
        """Return one paragraph of Markdown, filled in, as inline HTML; `place` names it in errors."""
        text = typeset(self._render(source, place, **context), self.language)
        return Markup(to_html(text).strip().removeprefix("<p>").removesuffix("</p>"))

    def _render(self, name: str, source: str | None = None, **context: Any) -> str:
        place = self.folder / (source or name)
        try:
            template = self._templates.from_string(name) if source else self._templates.get_template(name)
            return template.render(**context)
        except jinja2.TemplateNotFound:
            raise SkinTLError(f"{place} is missing: this part of the report is not translated. Add the file.") from None
        except (jinja2.TemplateError, SkinTLError) as error:
            raise SkinTLError(f"{place}: {error}. Correct the text, or the facts that it asks for.") from None


def fact_html(value: object, key: str, shown: str) -> Markup:
    """Return a fact as HTML that carries its value and its key."""
    return Markup('<data value="{}" data-fact="{}">{}</data>').format(value, key, shown)


def plain(text: object) -> Markup:
    """Escape text so that neither HTML nor Markdown sees anything in it but its letters."""
    return Markup(re.sub(r"[!-/:-@\[-`{-~]", lambda mark: f"&#{ord(mark[0])};", str(text)))


def without_tags(markup: object) -> str:
    """Return inline HTML as plain text, for an attribute."""
    return html.unescape(re.sub(r"<[^>]*>", "", str(markup)))


class _Renderer(mistune.HTMLRenderer):
    """Markdown to HTML in which a heading ends in the id that links name: ``## Results {#results}``."""

    def heading(self, text: str, level: int, **attributes: Any) -> str:
        title, _, name = text.removesuffix("}").rpartition("{#")
        title = title.rstrip()
        return f'<h{level} id="{name}">{title}</h{level}>\n'


_markdown = mistune.create_markdown(renderer=_Renderer(escape=False))


def to_html(text: str) -> str:
    """Turn Markdown, in which each heading ends in its id, into HTML."""
    return str(_markdown(text))
