"""Messages: each names a file, a setting or a value, and says in the imperative what to do.

`messages` reads them from the program's source: errors that are raised, with their placeholders in braces.
"""

import ast
import re

import pytest

from skin_tl.files import ROOT

ERRORS = ("SkinTLError", "NotANumberError")

NAMES_SOMETHING = re.compile(
    r"^(has|is) |\{|`|--\w|SKIN_TL_|KERAS_BACKEND|\w\.(csv|json|md|yaml|ipynb|keras|lock)\b|\w_\w"
)
"""A placeholder (its value stands there), code, an option, an environment variable, a file or a key; or a predicate of
the file that the caller names."""

REMEDIES = """
add bring choose close connect convert correct delete follow free give install keep lower make mend move name
publish put remove replace restore run save set start stop take undo unset use wait write leave
""".split()

SAYS_WHAT_TO_DO = re.compile(rf"(?:^|[.:;,(}}] |\band |\bor )`?({'|'.join(REMEDIES)})\b", re.IGNORECASE)
"""An imperative at the beginning of a sentence, or of a part of one."""

CARRIES_IT = (
    r"\{(self\.)?(advice|again|told|hint|remedy|by_hand|reason|AGAIN|RESTORE|error|place|_explain|_too_few|_word"
    r"|disk_full_message|one_line)\b.*\}"
)
"""A placeholder that brings what to do from elsewhere."""


def _text(node):
    """Return the text of an expression, placeholders in braces."""
    match node:
        case ast.Constant():
            return str(node.value)
        case ast.JoinedStr():
            return "".join(_text(part) for part in node.values)
        case ast.FormattedValue():
            return "{" + ast.unparse(node.value) + "}"
        case ast.BinOp():
            return _text(node.left) + _text(node.right)
    return "{" + ast.unparse(node) + "}"


def messages():
    """Return the messages of the errors that people read, list of (place, text)."""
    found = []
    for path in sorted((ROOT / "skin_tl").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Raise(exc=ast.Call(func=ast.Name(id=name), args=[first, *_])) if name in ERRORS:
                    found.append((f"{path.relative_to(ROOT)}:{node.lineno}", _text(first)))
    return found


def lines_said():
    """Return the lines that a terminal shows while a study runs and at its end, list of (place, text)."""
    found = []
    for path in sorted((ROOT / "skin_tl").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Name(id="say" | "print") | ast.Attribute(attr="line" | "echo"), args=[first, *_]
                ):
                    found.append((f"{path.relative_to(ROOT)}:{node.lineno}", _text(first)))
    return found


MESSAGES = messages()


def test_there_are_messages():
    assert len(MESSAGES) > 100


@pytest.mark.parametrize(("place", "text"), MESSAGES, ids=[place for place, _ in MESSAGES])
def test_a_message_names_what_failed_and_says_what_to_do(place, text):
    assert NAMES_SOMETHING.search(text), text
    assert SAYS_WHAT_TO_DO.search(text) or re.search(CARRIES_IT, text), text


@pytest.mark.parametrize(
    ("text", "names", "helps"),
    [
        ("Something went wrong.", False, False),
        ("Could not read {path}: truncated.", True, False),
        ("Could not read {path}: truncated. Replace the file.", True, True),
        ("Run it again.", False, True),
        ("The setting was used; it runs.", False, False),
    ],
)
def test_the_checks_tell_a_good_message_from_others(text, names, helps):
    assert bool(NAMES_SOMETHING.search(text)) == names
    assert bool(SAYS_WHAT_TO_DO.search(text)) == helps
