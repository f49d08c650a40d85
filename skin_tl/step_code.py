"""Step code: a fingerprint of the definitions that a result depends on.

Takes names of functions of the package, or of notebooks; gives one hash of these and of all that they reach.  The
Snakefile makes a step due by it, and the cache of images and features is keyed by it: there is no list of files to keep
by hand.

Reached are functions, classes and constants by their names, through imports of every form, those inside of functions
included.  Comments, docstrings, annotations, layout, errors that are raised and the file that a definition stands in do
not count.
"""

from __future__ import annotations

import ast
import functools
import json
from collections.abc import Sequence

from skin_tl.files import ROOT, fingerprint

NO_RESULTS: tuple[str, ...] = (
    *("errors", "progress", "reporting.watching", "study.Study", "files.write_atomically", "files.claim_space"),
    *("workflow.start", "workflow.console", "workflow.estimates", "workflow.locks", "workflow.cleaning"),
    "workflow.cli",
)
"""What no result depends on: what shows what happens, how a file lands, and the settings, which count by value."""

DRAWN = ("reporting.drawing", "reporting.figures", "apps.panels", "apps.panel_parts")
"""Modules and packages that draw: what they give is looked at, and read by no later step but the report."""


def step_code(step: str, notebook: str | None = None, drawn: bool = False) -> str:
    """Return what a step of the workflow depends on besides its settings and input: the hash of its code.

    Parameters
    ----------
    step
        Name of a function of `skin_tl.workflow.steps`.
    notebook
        The notebook that it executes, without ending.
    drawn
        Whether its figures are its result.
    """
    roots = [f"workflow.steps.{step}"] + ([f"notebooks/{notebook}"] if notebook else [])
    return code_hash(*roots, without=NO_RESULTS if drawn else NO_RESULTS + DRAWN)


def code_hash(*roots: str, without: Sequence[str] = NO_RESULTS + DRAWN) -> str:
    """Return a hash of all definitions that some reach, 16 hexadecimal digits.

    Parameters
    ----------
    *roots
        ``module.name`` of a definition of the package, such as ``models.features.extract``; or ``notebooks/name``,
        whose code cells count, but for that of the parameters.
    without
        Modules, and definitions as ``module.name``, that are left out, with all that only they reach.

    Returns
    -------
    str
        The same wherever a definition stands, and in whatever order.
    """
    modules: dict[str, tuple] = {}
    texts: dict[str | tuple[str, str], list[str]] = {}
    due: list[tuple[str, str]] = []
    for root in roots:
        if root.startswith("notebooks/"):
            code = "\n".join(notebook_code(root.removeprefix("notebooks/")))
            parts, _ = _definitions(code)
            texts[root] = [text for of_name in parts.values() for text, _ in of_name]
            due += [use for of_name in parts.values() for _, used in of_name for use in used if use[0]]
        else:
            module, name = root.rsplit(".", 1)
            due.append((module, name))
    while due:
        module, name = due.pop()
        if (module, name) in texts or module in without or f"{module}.{name}" in without:
            continue
        if module not in modules:
            modules[module] = _definitions(_file_of(module).read_text(encoding="utf-8"))
            due.append((module, ""))  # what runs whatever is used
        parts, imports = modules[module]
        texts[module, name] = [text for text, _ in parts.get(name, ())]
        due += [(of or module, use) for _, used in parts.get(name, ()) for of, use in used]
        if imports.get(name, ("", ""))[1]:  # which the module has from another
            due.append(imports[name])
    return fingerprint(sorted(text for of_name in texts.values() for text in of_name))


def notebook_code(name: str) -> list[str]:
    """Return the source of each code cell of a notebook of the project, without the cell of parameters, list of str."""
    cells = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    return [
        "".join(cell["source"])
        for cell in cells
        if cell["cell_type"] == "code" and "parameters" not in cell["metadata"].get("tags", [])
    ]


@functools.cache
def _definitions(source):
    """Return what the source of a module defines, and what it imports.

    Returns
    -------
    parts : dict
        By name, or the empty one for what stands outside of definitions: list of (text, used); see `_used`.
    imports : dict
        As from `_imports`.
    """
    tree = ast.parse(source)
    parts: dict[str, list] = {}
    imports = _imports(ast.Module([node for node in tree.body if isinstance(node, ast.ImportFrom)], []))
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names = [node.name]
        elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)]
        else:
            names = [] if "__name__" in ast.unparse(node) else [""]  # not what is done where a module is a program
        own = imports | _imports(node)
        node = _Bare().visit(node)
        if node is not None:
            part = ast.unparse(node), _used(node, own)
            for name in names:
                parts.setdefault(name, []).append(part)
    return parts, imports


def _file_of(module):
    """Return the path of a module of the package, such as ``data.images``, or of the module that a package is."""
    file = ROOT / "skin_tl" / f"{module.replace('.', '/')}.py"
    return file if file.is_file() else file.with_suffix("") / "__init__.py"


def _imports(tree):
    """Return what names stand for that are imported from the package: (module, name), or (module, '') for a module."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "skin_tl":
            module = node.module.removeprefix("skin_tl").lstrip(".")
            for alias in node.names:
                inside = f"{module}.{alias.name}".lstrip(".")
                found[alias.asname or alias.name] = (inside, "") if _file_of(inside).is_file() else (module, alias.name)
    return found


def _used(node, imports):
    """Return the definitions that a node names, set of (module, name); without a module where it is the node's own."""
    used = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name):
            module, name = imports.get(part.value.id, ("", ""))
            if module and not name:  # a definition of a module that is imported whole
                used.add((module, part.attr))
        elif isinstance(part, ast.Name):
            module, name = imports.get(part.id, ("", part.id))
            if name:
                used.add((module, name))
    return used


def _is_docstring(node):
    return isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


class _Bare(ast.NodeTransformer):
    """Takes away what changes no result: docstrings, annotations, imports and errors that are raised."""

    def visit_Expr(self, node):
        return None if _is_docstring(node) else self.generic_visit(node)

    def _drop(self, node):
        return None

    def visit_FunctionDef(self, node):
        node.returns = None
        return self.generic_visit(node)

    def visit_arg(self, node):
        node.annotation = None
        return node

    def visit_AnnAssign(self, node):  # of a class, fields are declared so
        if node.value is None or not isinstance(node.target, ast.Name):
            return node
        self.generic_visit(node)
        return ast.Assign([node.target], node.value, lineno=node.lineno)

    def visit_If(self, node):
        return None if ast.unparse(node.test) == "TYPE_CHECKING" else self.generic_visit(node)

    visit_Raise = visit_Import = visit_ImportFrom = _drop
