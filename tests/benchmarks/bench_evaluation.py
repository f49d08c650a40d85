"""Evaluation and report: seconds, size, and growth with the numbers of images and of runs.

Runs are fabricated, see ``tests/fabricated.py``: evaluation is timed as its step does it, the report as notebook and
rendering of one language.
"""

import os
import tempfile
import time
from pathlib import Path

from measured import ROOT, ratio_row


def _evaluated(root, name, **options):
    """Fabricate runs and evaluate them; return the study's file and the processor seconds that evaluation took."""
    from fabricated import fabricate

    from skin_tl.evaluation.scoring import write_evaluation
    from skin_tl.evaluation.study_files import read_study_files

    study = fabricate(root, name, **options)
    started = time.process_time()
    write_evaluation(read_study_files(study), root / "report" / name)
    return study, time.process_time() - started


def _reported(root, study):
    """Write the report of one language; return seconds, and the size of page and PDF in MB."""
    import papermill

    from skin_tl.reporting.rendering import render_report

    name = study.parent.name
    notebook, folder = study.parent / "report.ipynb", root / "report" / name
    parameters = {"study": str(study), "language": "en", "output": str(folder)}
    started = time.perf_counter()
    source = str(ROOT / "notebooks" / "3_report.ipynb")
    papermill.execute_notebook(
        source, str(notebook), parameters, kernel_name="python3", progress_bar=False, cwd=str(root)
    )
    pages = folder / "report.html", folder / "report.pdf"
    render_report(notebook, *pages)
    return time.perf_counter() - started, sum(page.stat().st_size for page in pages) / 1e6


def _metadata(times):
    """Return fabricated metadata with as many times the lesions."""
    import fabricated
    import numpy as np

    before = dict(fabricated.N_LESIONS)
    try:
        fabricated.N_LESIONS.update({dx: times * n for dx, n in before.items()})
        return fabricated.fabricate_metadata(np.random.default_rng(0))
    finally:
        fabricated.N_LESIONS.update(before)


def measure(full):
    """Measure evaluation at several sizes, and one report."""
    times, turns = (24, 3) if full else (4, 2)
    two = {"backbones": ["VGG16", "ResNet50"]}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        os.environ |= {"SKIN_TL_CACHE": str(root / "cache"), "PYTHONPATH": str(ROOT)}
        cases = {
            "few": {"changes": two, "metadata": _metadata(1)},
            "images": {"changes": two, "metadata": _metadata(times)},
            "runs": {"metadata": _metadata(1)},
        }
        took, studies = {name: [] for name in cases}, {}
        for _ in range(turns):
            for name, options in cases.items():
                studies[name], spent = _evaluated(root, name, **options)
                took[name].append(spent)
        n = {name: len(options["metadata"]) for name, options in cases.items()}
        for name, what in (
            ("images", f"{n['images']:,} images over {n['few']:,}, two backbones"),
            ("runs", f"four backbones over two, {n['few']:,} images"),
        ):
            yield ratio_row("evaluation", f"processor time: {what}", took[name], took["few"], faster=False)
        sides = {name: _reported(root, studies[name]) for name in ("few", "images", "runs")}
        grown = {"images": f"{n['images']:,} images over {n['few']:,}", "runs": "four backbones over two"}
        for name, what in grown.items():
            (many, size), (few, small) = sides[name], sides["few"]
            note = f"{size:.1f} MB over {small:.1f} MB (page and PDF)"
            yield ratio_row("report", f"one language: {what}", [many], [few], faster=False, note=note)
