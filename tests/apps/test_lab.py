"""`./run_all.sh lab` in a browser: the start page, and every notebook run as a person runs it."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time

import numpy as np
import pandas as pd
import pytest
from copies import copy_project
from fabricated import evaluate, fabricate

from skin_tl.apps import explore, studies
from skin_tl.schema import PROBABILITIES

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE = 300
"""Seconds that a notebook may take here, where other tests may run beside it."""

pytestmark = pytest.mark.skipif(not BROWSER, reason="needs chromium")


@pytest.fixture
def project(tmp_path, small_study):
    """A copy of the project with a study to train, and the runs of another as if finished."""
    folder = copy_project(tmp_path / "a project", small_study.model_copy(update={"seeds": [1], "max_epochs": 5}))
    changes = {"backbones": ["VGG16", "ResNet50"], "leakage": False, "other_splits": 0, "split_policies": ["image"]}
    evaluate(fabricate(folder, "tiny", changes))
    return folder


@pytest.fixture
def lab(project):
    """JupyterLab as it is started by hand: its address with the token, and where to ask for files."""
    options = ["--no-browser", "--ServerApp.port=0", *(["--allow-root"] if os.geteuid() == 0 else [])]
    process = subprocess.Popen(
        ["./run_all.sh", "lab", *options],
        cwd=project,
        env=os.environ | {"SKIN_TL_CACHE": str(project / "cache"), "SKIN_TL_CUDA": "0"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    note = project / ".state" / "jupyter" / "runtime" / f"jpserver-{process.pid}.json"
    try:
        yield within(PATIENCE, lambda: json.loads(note.read_text()), process)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def page(lab):
    """A browser on the start page."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(60_000)
        within(60, lambda: page.goto(f"{lab['url']}?token={lab['token']}"))
        yield page
        browser.close()


def within(seconds, ask, process=None):
    """Return what `ask` returns once it is true and raises nothing."""
    problem, end = None, time.monotonic() + seconds
    while time.monotonic() < end:
        assert process is None or process.poll() is None, "JupyterLab ended"
        try:
            if answer := ask():
                return answer
            problem = answer
        except Exception as error:
            problem = error
        time.sleep(0.3)
    raise AssertionError(f"not within {seconds} s: {problem!r}")


def set_parameters(file, **values):
    """Change the first code cell of a notebook as a person would."""
    notebook = json.loads(file.read_text(encoding="utf-8"))
    cell = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    cell["source"] = [f"{name} = {value!r}\n" for name, value in values.items()]
    file.write_text(json.dumps(notebook), encoding="utf-8")


def open_notebook(page, name):
    """Follow the link of the start page, and wait for the kernel: JupyterLab drops what is run before it is there."""
    page.locator(f'.jp-RenderedMarkdown a[href*="/files/{name}"]').first.click()
    panel = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")
    within(120, lambda: panel.locator(".jp-KernelName").inner_text(timeout=5000).startswith("Python 3"))
    panel.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]').wait_for(state="attached")


def run_all(page, file):
    """Choose Run All Cells, wait for the last cell, and return the code cells as they are saved then."""
    panel = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.locator('[data-command="runmenu:run-all"]').click()

    def cells():
        assert not panel.locator('.jp-Notebook-ExecutionIndicator[data-status="busy"]').count(), "still running"
        page.keyboard.press("Control+s")
        saved = json.loads(file.read_text(encoding="utf-8"))["cells"]
        code = [cell for cell in saved if cell["cell_type"] == "code"]
        failed = [output for cell in code for output in cell["outputs"] if output["output_type"] == "error"]
        assert all(cell["execution_count"] for cell in code) or failed
        return code

    return within(PATIENCE, cells)


def errors(cells):
    return [output["evalue"] for cell in cells for output in cell["outputs"] if output["output_type"] == "error"]


def test_the_start_page_is_rendered_and_each_notebook_runs(project, page):
    assert page.locator(".jp-RenderedMarkdown h1").inner_text() == "The notebooks"
    linked = page.locator(".jp-RenderedMarkdown table a").all_inner_texts()
    notebooks = sorted(file.stem for file in (project / "notebooks").glob("*.ipynb"))
    assert linked == notebooks and len(notebooks) == 4
    small, tiny = str(project / "small.yaml"), str(project / "runs/tiny/study.json")
    common = {"output": "runs/interactive", "prepared": False}
    parameters = {
        "1_dataset": {"study": small, **common},
        "2_train": {"study": small, "backbone": "MobileNetV2", "strategy": "feature_extraction", **common},
        "3_report": {"study": tiny, "language": "en", "output": str(project / "report/tiny")},
    }
    for name, values in parameters.items():
        file = project / "notebooks" / f"{name}.ipynb"
        set_parameters(file, **values)
        open_notebook(page, name)
        assert errors(run_all(page, file)) == [], name
        page.locator('.lm-TabBar-tabLabel:text-is("README.md")').click()
    run = project / "runs/interactive/small/feature_extraction/MobileNetV2"
    assert (run / "run.json").is_file()


def shown(page):
    """The images of the cards, in their order."""
    figures = page.locator(".skin-cards figure[data-image]:has(.bars)")
    return figures.evaluate_all("figures => figures.map(figure => figure.dataset.image)")


def looked_at(page):
    looked = page.locator(".skin-lesion [data-image]")
    return looked.evaluate_all("elements => elements.map(element => element.dataset.image)")[0]


def counted(page):
    return [int(text.replace(",", "")) for text in page.locator(".skin-two td").all_inner_texts()]


@pytest.mark.slow  # what each click shows is tested in test_explore.py
def test_clicks_in_the_explorer_show_the_right_images_and_figures(project, page):
    file = project / "notebooks" / "4_explore.ipynb"
    set_parameters(file, study="tiny", output="runs/interactive", language="en")
    open_notebook(page, "4_explore")
    assert errors(run_all(page, file)) == []

    predictions = pd.read_csv(project / "runs/tiny/feature_extraction/VGG16/predictions.csv")
    test = predictions.query("seed == 1 and subset == 'test' and arm == 'main'")
    said = np.array([name[2:] for name in PROBABILITIES])[test[PROBABILITIES].to_numpy().argmax(1)]
    of_cell = test.groupby([test["dx"], said])["image_id"].agg(set)
    clicked = 0
    for (dx, predicted), expected in of_cell[of_cell.map(len) <= 12].items():
        page.locator(f".skin-cell-{dx}-{predicted}").click()
        within(60, lambda expected=expected: set(shown(page)) == expected)
        within(60, lambda: looked_at(page) == shown(page)[0])
        clicked += 1
    assert clicked >= 5
    picture = page.locator(".skin-cards img").first
    assert picture.get_attribute("src").startswith("data:image/png;base64,")
    assert picture.evaluate("image => image.naturalWidth") == 32

    page.locator(".skin-cards button").last.click()
    last = shown(page)[-1]
    within(60, lambda: looked_at(page) == last)

    choice = {"strategy": "feature_extraction", "backbone": "VGG16", "split_policy": "image", "preprocessing": "native"}
    found, choice = studies.open_runs(project / "runs" / "tiny"), choice | {"seed": 1}
    lesions = explore.lesions_of(found.predictions, choice)

    def at(threshold):
        told = explore.decide(lesions, threshold)
        return [told["found"], told["missed"], told["flagged_others"], told["cleared"]]

    chosen = at(explore.threshold_of_validation(found.predictions, choice))
    within(60, lambda: counted(page) == chosen)
    handle = page.locator(".skin-threshold .noUi-handle")
    for key, threshold in (("End", 1.0), ("Home", 1e-4)):
        handle.press(key)
        within(60, lambda threshold=threshold: counted(page) == at(threshold))
    page.locator(".skin-validation").click()
    within(60, lambda: counted(page) == chosen)
    assert len({tuple(at(1.0)), tuple(at(1e-4)), tuple(chosen)}) == 3
