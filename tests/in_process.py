"""Notebooks and commands run in the process of the tests: no start to wait for, and errors of their own type."""

import ast

import nbformat
import pytest

from skin_tl.workflow import cli


def command(root, *words):
    """Run what follows ``./run_all.sh`` in a project's folder; return the exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "ROOT", root)
        return cli.main([str(word) for word in words])


def run_notebook(path, **parameters):
    """Run a notebook's code cells and return it with what they showed.

    Parameters
    ----------
    path : pathlib.Path
    **parameters
        Set after the first code cell, which holds the notebook's own.

    Returns
    -------
    nbformat.NotebookNode
        A copy with an output for every ``display`` and for the value of each cell's last expression, where the object
        has a ``_repr_mimebundle_``.
    """
    notebook = nbformat.read(path, as_version=4)
    outputs = []

    def display(shown):
        if hasattr(shown, "_repr_mimebundle_"):
            data, metadata = shown._repr_mimebundle_()
            outputs.append(nbformat.v4.new_output("display_data", data, metadata=metadata))

    names = {"display": display}
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        outputs = cell.outputs = []
        code = ast.parse(cell.source)
        last = code.body.pop() if isinstance(code.body[-1], ast.Expr) else None
        exec(compile(code, str(path), "exec"), names)
        if last:
            display(eval(compile(ast.Expression(last.value), str(path), "eval"), names))
        if "parameters" in cell.metadata.get("tags", []):
            names.update(parameters)
    return notebook
