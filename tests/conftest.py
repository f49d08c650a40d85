"""What several test modules share: where Keras keeps its downloads, a small prepared study, and fabricated reports."""

import atexit
import os
import shutil
import tempfile

os.environ["KERAS_HOME"] = tempfile.mkdtemp(prefix="keras-")  # before Keras is imported: no test finds a user's weights
os.environ["SKIN_TL_CACHE"] = os.path.join(os.environ["KERAS_HOME"], "cache")  # nor writes to theirs
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from skin_tl.files import ROOT
from skin_tl.reporting.texts import languages
from skin_tl.schema import CLASSES
from skin_tl.study import check_study

atexit.register(shutil.rmtree, os.environ["KERAS_HOME"], ignore_errors=True)


@pytest.fixture
def small_study(tmp_path, monkeypatch):
    """Return a study whose cache and HAM10000 are small folders of its own.

    60 lesions of random noise, a mean colour per diagnosis, 1 or 2 images each; MobileNetV2 with random weights.
    """
    rng = np.random.default_rng(0)
    rows, folder = [], tmp_path / "HAM10000"
    folder.mkdir()
    for index, dx in enumerate(CLASSES):
        for lesion in range(8):
            for view in range(1 + lesion % 2):
                name = f"ISIC_{index}{lesion}{view}"
                noise = rng.normal([40 + 25 * index, 200 - 20 * index, 60 * (index % 3)], 30, (40, 40, 3))
                Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(folder / f"{name}.png")
                rows.append((f"HAM_{index}{lesion}", name, dx, "histo", "50.0", "female", "back"))
    columns = ["lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "HAM10000_metadata.csv", index=False)
    monkeypatch.setenv("SKIN_TL_HAM10000", str(folder))
    monkeypatch.setenv("SKIN_TL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SKIN_TL_WEIGHTS", raising=False)
    return check_study(
        {
            "name": "small",
            "title": "Small",
            "dataset": "ham10000",
            "image_size": 32,
            "backbones": ["MobileNetV2"],
            "seeds": [1, 2],
            "weights": "random",
            "max_epochs": 15,
        }
    )


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    """A folder with several fabricated studies' runs, and the cache with their images."""
    return tmp_path_factory.mktemp("project")


@pytest.fixture(scope="session")
def make(root):
    """Make the report of a fabricated study, once per name."""
    from fabricated import evaluate, fabricate

    from skin_tl.reporting.report import Report

    made = {}

    def make_report(name, changes=None, language="en", **options):
        if (name, language) not in made:
            study = root / "runs" / name / "study.json"
            if not study.is_file():
                study = fabricate(root, name, changes, **options)
                evaluate(study)
            made[name, language] = Report(str(study), language, root / "report" / name)
        return made[name, language]

    return make_report


@pytest.fixture(scope="session", params=languages())
def executed(request, root, make):
    """The report notebook executed as the workflow does it: language, folder, report and the path of the notebook."""
    import papermill

    changes = {"split_policies": ["lesion", "image"], "backbones": ["VGG16", "ResNet50"]}
    report = make("demo", changes, weights="random", language=request.param)
    notebook = root / "runs" / "demo" / f"report.{request.param}.ipynb"
    folder = root / "report" / "demo"
    parameters = {"study": str(root / "runs/demo/study.json"), "language": request.param, "output": str(folder)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKIN_TL_CACHE", str(root / "cache"))
        patch.setenv("PYTHONPATH", str(ROOT))
        papermill.execute_notebook(
            str(ROOT / "notebooks" / "3_report.ipynb"),
            str(notebook),
            parameters,
            kernel_name="python3",
            progress_bar=False,
            cwd=str(root),
        )
    return {"language": request.param, "folder": folder, "report": report, "executed": notebook}
