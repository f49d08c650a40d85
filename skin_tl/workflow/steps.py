"""Steps of the workflow, as the Snakefile calls them: ``python -m skin_tl step NAME --study FILE …``.

Takes the effective study (runs/<study>/study.json); each step writes the files that the Snakefile names for it.  What a
user can mend ends in one line ``error: …`` and exit status 1.
"""

import errno
import os
import shutil
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from skin_tl.errors import SkinTLError
from skin_tl.files import ROOT, disk_full_message, exit_status, full_folder, read_json, write_atomically, write_json
from skin_tl.progress import event, say, standard_error_to
from skin_tl.schema import BASELINES, ENSEMBLE
from skin_tl.study import Study, command_of, load_study


def weights(study: Study, folder: Path, options: Namespace) -> None:
    """Find the weights of all backbones."""
    from skin_tl.models.runs import prepare_weights
    from skin_tl.workflow.estimates import has_gpu

    if study.device == "gpu":  # known before anything is computed
        from skin_tl.models.devices import on_device

        on_device(study)
    if study.device == "auto" and has_gpu():
        from skin_tl.models.devices import gpus, why_no_gpu

        if not gpus():
            say(f"  WARNING: an NVIDIA driver is here, but networks are computed on the processor{why_no_gpu()}.")
            say("  docs/install.md says what a GPU needs.")
    found = prepare_weights(study, folder)
    if found["source"] == study.weights == "random":
        say("  note: random weights for all backbones, as the study asks. The report will say so.")
    elif found["source"] == "random":
        say(f"  WARNING: random weights for all backbones, not ImageNet's: {found['reason']}.")
        say("  The report will say so. To use ImageNet's, connect to the network or set SKIN_TL_WEIGHTS, and start")
        say("  the same again with --forcerun weights.")


def images(study: Study, folder: Path, options: Namespace) -> None:
    """Open the data set, check it and decode its images."""
    from skin_tl.data.preparation import prepare_images

    if study.synthetic:
        say("  note: the images of this study are drawn, not photographed. Its numbers say nothing about skin.")
    prepare_images(study, folder)


def dataset(study: Study, folder: Path, options: Namespace) -> None:
    """Execute the notebook that shows the data set and draws the splits."""
    execute("1_dataset", folder / "dataset" / "dataset.ipynb", study, folder)


def features(study: Study, folder: Path, options: Namespace) -> None:
    """Compute one backbone's features of all images."""
    _write_features(study, folder, options, "dataset", "features/")


def random_features(study: Study, folder: Path, options: Namespace) -> None:
    """Compute the features that one backbone gives of all images with random weights."""
    _write_features(study, folder, options, "dataset", "features/", "_random", weights={"source": "random"})


def _write_features(
    study: Study, folder: Path, options: Namespace, part: str, where: str, ending: str = "", weights: dict | None = None
) -> None:
    from skin_tl.data.preparation import read_images
    from skin_tl.models.features import features_of

    images = read_images(folder, part)
    weights = weights or read_json(folder / "weights.json")["backbones"][options.backbone]
    _, about = features_of(study, images, options.backbone, options.preprocessing, weights)
    write_json(folder / f"{where}{options.backbone}_{options.preprocessing}{ending}.json", about)


def distances(study: Study, folder: Path, options: Namespace) -> None:
    """Compute the distance of each image to its training images, in the features of each backbone."""
    from skin_tl.explain.distances import write_distances

    write_distances(study, folder)


def train(study: Study, folder: Path, options: Namespace) -> None:
    """Execute the training notebook for one backbone and strategy."""
    run = folder / options.strategy / options.backbone
    execute("2_train", run / "train.ipynb", study, folder, backbone=options.backbone, strategy=options.strategy)
    # Only now: of a step that fails the engine keeps nothing else.
    shutil.rmtree(run / "checkpoints", ignore_errors=True)


def external_images(study: Study, folder: Path, options: Namespace) -> None:
    """Open the external test set, check it and decode its images."""
    from skin_tl.data.preparation import prepare_external

    prepare_external(study, folder)


def external_features(study: Study, folder: Path, options: Namespace) -> None:
    """Compute one backbone's features of the external images."""
    _write_features(study, folder, options, "external", "external/features_")


def external_duplicates(study: Study, folder: Path, options: Namespace) -> None:
    """List the external images that look like images of the data set."""
    from skin_tl.data.preparation import find_duplicates

    find_duplicates(study, folder)


def external(study: Study, folder: Path, options: Namespace) -> None:
    """Predict the external test set with the heads of one backbone and strategy."""
    from skin_tl.models.external_predictions import predict_external

    predict_external(study, options.strategy, options.backbone, folder)


def explain(study: Study, folder: Path, options: Namespace) -> None:
    """Write one backbone's whole model, Grad-CAM of chosen test images and the 2-D map of its features."""
    from skin_tl.explain.explanations import explain as write_explanations

    write_explanations(study, options.strategy, options.backbone, folder)


def robustness(study: Study, folder: Path, options: Namespace) -> None:
    """Predict changed test images by one backbone and strategy."""
    from skin_tl.explain.robustness import measure_robustness

    measure_robustness(study, options.strategy, options.backbone, folder)


def baselines(study: Study, folder: Path, options: Namespace) -> None:
    """Predict without a network, for comparison."""
    from datetime import UTC, datetime

    from skin_tl.data.preparation import read_images, read_metadata_table, read_splits
    from skin_tl.models import baselines as methods
    from skin_tl.models.runs import write_pseudo_run

    metadata, splits, images = read_metadata_table(folder), read_splits(folder), read_images(folder)
    for name in BASELINES:
        started = datetime.now(UTC)
        pixels = (images.pixels, images.ids) if name == "colour_histogram" else ()
        predictions = getattr(methods, name)(metadata, splits, *pixels)
        write_pseudo_run(study, folder, "baseline", name, predictions, started)


def ensemble(study: Study, folder: Path, options: Namespace) -> None:
    """Pool the probabilities of a strategy's backbones."""
    from datetime import UTC, datetime

    from skin_tl.data.preparation import read_splits
    from skin_tl.evaluation.predictions import ensemble as pool
    from skin_tl.evaluation.predictions import main_arm
    from skin_tl.evaluation.study_files import run_predictions
    from skin_tl.models.runs import write_pseudo_run

    started, splits, of_strategy = datetime.now(UTC), read_splits(folder), folder / options.strategy
    predictions = {
        backbone: main_arm(run_predictions(study, of_strategy / backbone, splits, "./run_all.sh"))
        for backbone in study.backbones
    }
    write_pseudo_run(study, folder, options.strategy, ENSEMBLE, pool(predictions), started)


def evaluate(study: Study, folder: Path, options: Namespace) -> None:
    """Compute the metrics and all that comes from the predictions of all runs."""
    from skin_tl.evaluation.scoring import write_evaluation
    from skin_tl.evaluation.study_files import read_study_files

    write_evaluation(read_study_files(folder / "study.json"), ROOT / "report" / study.name)


def report(study: Study, folder: Path, options: Namespace) -> None:
    """Execute the report notebook in one language."""
    execute(
        "3_report", folder / "report" / f"report.{options.language}.ipynb", study, folder, language=options.language
    )


def render(study: Study, folder: Path, options: Namespace) -> None:
    """Turn the executed report notebook into HTML and PDF."""
    from skin_tl.reporting.rendering import render_report

    notebook, target = _rendered(study, folder, options, "report")
    render_report(notebook, target.with_name(f"{target.name}.html"), target.with_name(f"{target.name}.pdf"))


def slides(study: Study, folder: Path, options: Namespace) -> None:
    """Turn the executed report notebook into slides."""
    from skin_tl.reporting.slides import render_slides

    notebook, target = _rendered(study, folder, options, "slides")
    render_slides(notebook, target.with_name(f"{target.name}.html"))


def _rendered(study: Study, folder: Path, options: Namespace, name: str) -> tuple[Path, Path]:
    """Return the executed notebook of a language, and what is made from it, without its ending."""
    name = name if options.language == "en" else f"{name}.{options.language}"
    return folder / "report" / f"report.{options.language}.ipynb", ROOT / "report" / study.name / name


def execute(name: str, target: Path, study: Study, folder: Path, **parameters: str) -> None:
    """Execute a notebook of the project by Papermill.

    Parameters
    ----------
    name
        Of a notebook below ``notebooks/``, without ending.
    target
        Gets the executed copy, once it ended well.
    study
        The effective study.
    folder
        The study's folder below ``runs/``.
    **parameters
        Further parameters of the notebook.

    Raises
    ------
    SkinTLError
        If a cell raised one, whose message it has then, or the notebook failed otherwise.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError

    def path_of(path: Path) -> str:  # Papermill formats paths
        return str(path).replace("{", "{{").replace("}", "}}")

    source = path_of(ROOT / "notebooks" / f"{name}.ipynb")
    known = papermill.inspect_notebook(source)
    given = {"study": str(folder / "study.json"), "output": str(folder.parent), "prepared": True, **parameters}
    with write_atomically(target) as part:
        try:
            papermill.execute_notebook(
                source,
                path_of(part),
                {key: value for key, value in given.items() if key in known},
                kernel_name="python3",
                cwd=str(ROOT),
                progress_bar=False,
                request_save_on_cell_execute=False,  # a copy of some MB after each cell took half of the report's time
            )
        except papermill.PapermillExecutionError as error:
            failed = folder / "logs" / f"failed_{target.stem}.ipynb"
            failed.parent.mkdir(parents=True, exist_ok=True)
            part.replace(failed)
            if error.ename == SkinTLError.__name__:
                raise SkinTLError(error.evalue) from None
            if os.strerror(errno.ENOSPC) in error.evalue:
                raise SkinTLError(disk_full_message(full_folder())) from None
            print("\n".join(error.traceback), file=sys.stderr)
            raise SkinTLError(
                f"notebooks/{name}.ipynb failed with {error.ename}: {error.evalue} "
                f"(the notebook as far as it got: {failed})"
            ) from None
        except DeadKernelError:
            raise SkinTLError(
                f"notebooks/{name}.ipynb: its process was killed or crashed; most often the machine had no memory "
                "left. Close other programs and start again: it goes on from there."
            ) from None


def rebuild_report(folder: Path) -> list[str]:
    """Evaluate finished runs again and write their report and slides in all languages, without the workflow.

    Parameters
    ----------
    folder
        Of the study, below ``runs/``.

    Returns
    -------
    list of str
        Lines that name what was written, see `skin_tl.workflow.console.results`.

    Raises
    ------
    SkinTLError
        If its runs are not there.
    """
    from skin_tl.reporting.texts import languages
    from skin_tl.workflow.console import results

    if not (folder / "study.json").is_file():
        raise SkinTLError(
            f"{folder / 'study.json'} is missing. Copy the folder of the study's finished runs there, or run the study "
            f"first: `{command_of(folder.name)}`."
        )
    study = load_study(folder / "study.json")
    say("computing the metrics")
    evaluate(study, folder, Namespace())
    for language in languages():
        options = Namespace(language=language)
        with _writing(language, folder):
            report(study, folder, options)
        render(study, folder, options)
        slides(study, folder, options)
    return results(study)


def rebuild_published() -> None:
    """Write all published reports again, from their tables, by this version's texts; then the index and README.

    Pages and ``facts.json`` are replaced, tables and predictions stay.  PDFs, which are not published, are written to
    ``runs/interactive/published/<study>/``, where the work is done.

    Raises
    ------
    SkinTLError
        If a table is missing that this version's report shows.
    """
    from skin_tl.reporting.publishing import ENDINGS, list_published
    from skin_tl.reporting.rendering import render_report

    for published in sorted(file.parent for file in (ROOT / "report" / "published").glob("*/study.json")):
        folder = ROOT / "runs" / "interactive" / "published" / published.name
        shutil.rmtree(folder, ignore_errors=True)  # whose tables may be of another version
        shutil.copytree(published, folder)
        study, written = load_study(folder / "study.json"), folder / "report"
        for language, ending in ENDINGS.items():
            notebook = folder / f"report.{language}.ipynb"
            with _writing(language, folder):
                execute("3_report", notebook, study, folder, language=language, output=str(written))
            page = written / f"report{ending}.html"
            render_report(notebook, page, page.with_suffix(".pdf"))
        for file in [*written.glob("*.html"), written / "facts.json"]:
            shutil.copy(file, published)
    list_published()


@contextmanager
def _writing(language: str, folder: Path) -> Iterator[None]:
    """Say that a study's report is written, and keep what Jupyter prints in a log, as in the workflow."""
    say(f"writing the report ({folder.name}, {language})")
    log = folder / "logs" / f"report_{language}.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("w") as file, standard_error_to(file):
        yield


STEPS = {
    step.__name__: step
    for step in (
        *(weights, images, dataset, features, random_features, distances, train, explain, robustness, baselines),
        *(ensemble, external_images, external_features, external_duplicates, external, evaluate, report, render),
        slides,
    )
}


def run_step(name: str, study: str, options: Namespace) -> int:
    """Run one step; return the exit status.

    Parameters
    ----------
    name
        One of `STEPS`.
    study
        Path of the effective study, ``runs/<study>/study.json``.
    options
        ``backbone``, ``preprocessing``, ``strategy`` and ``language``, where the step takes them.
    """
    folder, status = Path(study).resolve().parent, 1
    try:
        status = exit_status(
            lambda: STEPS[name](load_study(study), folder, options), lambda message: event(error=message)
        )
    finally:
        event(status=status)
    return status
