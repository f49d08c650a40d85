"""What several test modules share: options, where Keras keeps its downloads, a small study, and fabricated reports.

Tests run in several processes (pytest-xdist): those that share a costly fixture in one of them, and all others one by
one in whichever is free.
"""

import atexit
import functools
import gc
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

os.environ["KERAS_HOME"] = tempfile.mkdtemp(prefix="keras-")  # before Keras is imported: no test finds a user's weights
os.environ["SKIN_TL_CACHE"] = os.path.join(os.environ["KERAS_HOME"], "cache")  # nor writes to theirs
os.environ.setdefault("SKIN_TL_TEST_SHARED", os.environ["KERAS_HOME"])  # one folder of all processes of the tests
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if "PYTEST_XDIST_WORKER" in os.environ:  # a core for each process, instead of threads that wait for each other
    for _library in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ.setdefault(_library, "1")

import numpy as np
import pandas as pd
import pytest
from hypothesis import settings
from PIL import Image
from xdist.scheduler import LoadScopeScheduling

from skin_tl.files import ROOT, write_json
from skin_tl.reporting.texts import languages
from skin_tl.schema import CLASSES
from skin_tl.study import check_study

atexit.register(shutil.rmtree, os.environ["KERAS_HOME"], ignore_errors=True)

GROUPS = Path(os.environ["SKIN_TL_TEST_SHARED"], "groups.json")
"""Which tests one process runs, by their ids: written by each process alike, read by the one that hands them out."""

CHEAP = {"root", "make", "thorough"}
"""Fixtures of a whole session that each process makes for itself: `fabricated.evaluate` does the costly part once."""


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="run the long campaigns too, which are marked slow")


def pytest_xdist_auto_num_workers(config):
    """Say how many processes `-n auto` starts: none to run a few named tests, else one for each core, up to four."""
    return 0 if any("::" in name for name in config.args) else min(os.cpu_count() or 1, 4)


class Groups(LoadScopeScheduling):
    """What `--dist loadgroup` of pytest-xdist 3.8 does with pytest 9.1 and not with 9.2 (its issue 1386)."""

    @functools.cached_property
    def group_of(self):
        return json.loads(GROUPS.read_text())

    def _split_scope(self, nodeid):
        return self.group_of.get(nodeid, nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return Groups(config, log) if config.getoption("dist") == "loadgroup" else None


def pytest_collection_modifyitems(config, items):
    """Skip long campaigns unless they are asked for, and keep together what shares a costly fixture."""
    for item in items:
        if item.get_closest_marker("any_language") and item.callspec.params.get("executed") == "fr":
            item.add_marker("slow")
        if item.get_closest_marker("slow") and not config.getoption("all"):
            item.add_marker(pytest.mark.skip(reason="a long campaign: run it with --all"))
    write_json(GROUPS, {item.nodeid: group for item in items if (group := _group_of(item))})


def _group_of(item):
    """Name what a test shares: a fixture with its parameter, the fixtures of a module, or a fabricated study."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    found = {name: found[-1] for name, found in item._fixtureinfo.name2fixturedefs.items()}
    shared = [name for name, fixture in found.items() if fixture.baseid and fixture.scope in ("module", "session")]
    for name in shared:
        if name in parameters:
            return f"{name}-{parameters[name]}"
    if set(shared) - CHEAP:
        return item.path.stem
    return f"study-{parameters['name']}" if "make" in shared and "name" in parameters else None


@pytest.fixture(scope="session")
def thorough(pytestconfig):
    """Whether a campaign goes through all of its cases (`--all`) or through some of each kind."""
    return pytestconfig.getoption("all")


def pytest_configure(config):
    """Draw the same examples at each run: 30 of each property, or with `--all` Hypothesis' own number."""
    settings.register_profile("quick", derandomize=True, deadline=None, max_examples=30)
    settings.register_profile("all", derandomize=True, deadline=None)
    settings.load_profile("all" if config.getoption("all") else "quick")


@functools.cache
def _freeze(with_keras):
    """Keep what the imports made out of each garbage collection, which Keras, training and statsmodels ask for."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup():
    _freeze("keras" in sys.modules)  # whose import some tests alone need


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
            request_save_on_cell_execute=False,
        )
    return {"language": request.param, "folder": folder, "report": report, "executed": notebook}
