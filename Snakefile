# The study's story, step by step: what each step reads, what it writes, and what makes it run again.
#
#   weights ─┬─ features ─┐                                        ┌─ explain ────────────────┐
#   images ──┼────────────┼─ train (once per strategy and backbone) ┴─ ensemble ─┬─ evaluate ─┴─ report ─┬─ render
#   dataset ─┴────────────┴─ baselines ──────────────────────────────────────────┘                        └─ slides
#
# where backbones are frozen, the distances of images in their features are known before `evaluate`:
#
#   features ── distances ── evaluate
#
# where the study asks for it, finished networks predict changed test images before `evaluate`:
#
#   train ── robustness ── evaluate
#
# and where the study has an external test set, the heads that `train` wrote predict it before `ensemble`:
#
#   external_images ─ external_features ─┬─ external
#                                        └─ external_duplicates
#
# Called by ./run_all.sh with the checked study, overrides included, as --configfile. Each step is a function of
# skin_tl/workflow/steps.py; see `run` below. All steps share one environment, from locks/: no rule names its own, which
# `--lint` remarks on.
# `params.depends` is a hash of the settings that a step depends on, `params.code` of its code, and `params.text` of texts
# and templates: a step runs again where one of them, or the content of an input, is another. Dates do not count. Of
# notebooks, the code counts alone: they are opened, run and saved in JupyterLab.

from pathlib import Path

from skin_tl.files import content_hash, fingerprint
from skin_tl.models.backbones import weights_state
from skin_tl.schema import BASELINES, DISTANCES, EVALUATED, EXPLAINED, ROBUSTNESS, TUNED
from skin_tl.step_code import step_code
from skin_tl.study import check_study
from skin_tl.workflow.estimates import has_gpu

study = check_study(config)

RUNS = f"runs/{study.name}"
REPORT = f"report/{study.name}"
LANGUAGES = {"en": "", "fr": ".fr"}

# On this machine, much of each step with a network is done by one core (starting, building, reading), so two such steps run
# side by side and share all cores; a GPU belongs to one at a time. On a cluster, a profile may set other numbers of cores.
LOCAL_CORES = workflow.resource_settings.cores
CORES = LOCAL_CORES or 8
GPUS = int(study.device == "gpu" or (study.device == "auto" and has_gpu()))
NETWORK_CORES = CORES if GPUS or not LOCAL_CORES else (CORES + 1) // 2

ALL_RUNS = expand(f"{RUNS}/{{strategy}}/{{backbone}}", strategy=study.strategies, backbone=study.backbones)
PSEUDO_RUNS = [f"{RUNS}/{strategy}/{name}" for strategy, name in study.pseudo_runs]
RUN_FILES = ("predictions.csv", "history.csv", "run.json", "train.ipynb")

# Files outside of the project that a data set starts from: a changed metadata table or image decodes and checks again.
STATES = {}
if study.releases:
    from skin_tl.data.releases import PARTS, source_state

    STATES = {name: source_state(name, f"{RUNS}/{PARTS[name]}") for name in study.releases}

# Weights count by their content, wherever they lie.
WEIGHTS = {"weights": study.weights if study.transfers else "none", "backbones": study.backbones}
if study.transfers and study.weights != "random":
    WEIGHTS["states"] = {name: weights_state(name, Path(RUNS, "weights.json")) for name in study.backbones}

PREDICTIONS = [f"{run}/predictions.csv" for run in ALL_RUNS]
EXPLANATIONS = [f"{run}/explanations/{name}" for run in ALL_RUNS for name in EXPLAINED]
DISTANCE_FILES = [f"{RUNS}/{DISTANCES}"] if "feature_extraction" in study.strategies else []
ROBUSTNESS_FILES = [f"{run}/{ROBUSTNESS}" for run in ALL_RUNS] if study.robustness else []
EXTERNAL_FILES = []
if study.external:
    PREDICTIONS += [f"{run}/predictions_{study.external}.csv" for run in ALL_RUNS]
    EXTERNAL_FILES += [f"{RUNS}/external/{name}" for name in ("metadata.csv", "images.json", "duplicates.csv")]


FEATURE_FILES = ["features/", *(["external/features_"] if study.external else [])]


def depends(**settings):
    return fingerprint(settings)  # digits: Snakemake would take a title such as `A {study}` for a wildcard


def run(step, *options):
    """The command of a step, with options named after what they take, such as `wildcards.backbone`."""
    given = "".join(f" --{option.split('.')[-1]} {{{option}}}" for option in options)
    command = f"python -m skin_tl step {step} --study {RUNS}/study.json{given}"
    return f"SKIN_TL_PROGRESS={{log}}.progress {command} > {{log}} 2>&1"


def needs(mem_mb, runtime, gpu=0):
    """What a job takes of a cluster: memory (MB), more with each attempt, minutes, and GPUs. A profile may set others."""
    return {"mem_mb": lambda wildcards, attempt: mem_mb * attempt, "runtime": runtime, "gpu": gpu}


def features_of(wildcards):
    """What a run needs of its backbone's features: nothing, where all is trained from random weights."""
    if wildcards.strategy == "from_scratch":
        return []
    names = [*study.preprocessings]
    if wildcards.strategy == "feature_extraction" and study.control:
        names.append(f"{study.control}_random")
    return [f"{RUNS}/features/{wildcards.backbone}_{name}.json" for name in names]


def settings_of(wildcards):
    return depends(**study.training_settings(wildcards.strategy))


wildcard_constraints:
    strategy="|".join(study.strategies),
    backbone="|".join(study.backbones),
    preprocessing="|".join(study.preprocessings),


localrules: all


rule all:
    input:
        f"{REPORT}/metrics.csv",
        [f"{REPORT}/report{ending}.{kind}" for ending in LANGUAGES.values() for kind in ("html", "pdf")],
        [f"{REPORT}/slides{ending}.html" for ending in LANGUAGES.values()],
        [f"{REPORT}/{name}" for name in study.report_files],
        # Named here so that a run that was deleted is missed, though the report that was made from it is there.
        [f"{run}/{name}" for run in ALL_RUNS for name in (*RUN_FILES, "model.keras")],
        [f"{run}/predictions.csv" for run in PSEUDO_RUNS],
        PREDICTIONS,
        EXPLANATIONS,
        ROBUSTNESS_FILES,
        EXTERNAL_FILES,


rule weights:
    message: f"finding the weights of {', '.join(study.backbones)}" if study.transfers else "transferring no weights"
    output: f"{RUNS}/weights.json"
    params:
        depends=depends(**WEIGHTS),
        code=step_code("weights"),
    log: f"{RUNS}/logs/weights.log"
    resources: **needs(4000, 60)
    shell: run("weights")

rule images:
    message: "checking and decoding the images"
    output:
        metadata=f"{RUNS}/dataset/metadata.csv",
        images=f"{RUNS}/dataset/images.json",
        pairs=f"{RUNS}/dataset/near_duplicates.csv",
    params:
        depends=depends(**study.data_settings(), source=STATES.get("HAM10000", "")),
        code=step_code("images"),
    threads: max(1, CORES - 1)  # uses all; the search for weights, beside it, mostly waits
    log: f"{RUNS}/logs/images.log"
    resources: **needs(4000, 120)
    shell: run("images")

rule dataset:
    message: "drawing the splits (notebook 1_dataset)"
    input: rules.images.output
    output:
        f"{RUNS}/dataset/splits.csv",
        f"{RUNS}/dataset/experiments.csv",
        f"{RUNS}/dataset/dataset.ipynb",
    params:
        depends=depends(**study.split_settings()),
        code=step_code("dataset", "1_dataset"),
    log: f"{RUNS}/logs/dataset.log"
    resources: **needs(4000, 30)
    shell: run("dataset")

rule features:
    message: "computing the features of {wildcards.backbone} ({wildcards.preprocessing})"
    input:
        rules.weights.output,
        rules.images.output.images,
    output: f"{RUNS}/features/{{backbone}}_{{preprocessing}}.json"
    params:
        depends=depends(features=study.features, views=study.views),
        code=step_code("features"),
    threads: NETWORK_CORES
    priority: 1  # before all heads, which then fill what a last long one leaves
    log: f"{RUNS}/logs/features_{{backbone}}_{{preprocessing}}.log"
    resources: **needs(8000, 240, GPUS)
    shell: run("features", "wildcards.backbone", "wildcards.preprocessing")

rule random_features:
    message: "computing the features of {wildcards.backbone} with random weights, the control ({wildcards.preprocessing})"
    input:
        rules.images.output.images,
    output: f"{RUNS}/features/{{backbone}}_{{preprocessing}}_random.json"
    params:
        depends=depends(features=study.features, views=study.views),
        code=step_code("random_features"),
    threads: NETWORK_CORES
    priority: 1
    log: f"{RUNS}/logs/random_features_{{backbone}}_{{preprocessing}}.log"
    resources: **needs(8000, 240, GPUS)
    shell: run("random_features", "wildcards.backbone", "wildcards.preprocessing")

if DISTANCE_FILES:

    rule distances:
        message: "computing distances in feature space"
        input:
            rules.dataset.output[0],
            rules.images.output.images,
            expand(
                [f"{RUNS}/{place}{{backbone}}_{{preprocessing}}.json" for place in FEATURE_FILES],
                backbone=study.backbones,
                preprocessing=study.preprocessings,
            ),
        output: DISTANCE_FILES
        params:
            depends=depends(backbones=study.backbones, preprocessings=study.preprocessings, external=study.external),
            code=step_code("distances"),
        log: f"{RUNS}/logs/distances.log"
        resources: **needs(4000, 120)
        shell: run("distances")

rule train:
    message: "training {wildcards.backbone}, {wildcards.strategy} (notebook 2_train)"
    input:
        rules.images.output,
        rules.dataset.output[:2],
        features_of,
    output: [f"{RUNS}/{{strategy}}/{{backbone}}/{name}" for name in RUN_FILES]
    params:
        depends=settings_of,
        code=step_code("train", "2_train"),
    threads: lambda wildcards: CORES if wildcards.strategy in TUNED else NETWORK_CORES
    log: f"{RUNS}/logs/train_{{strategy}}_{{backbone}}.log"
    resources: 
        mem_mb=lambda wildcards, attempt: (16000 if wildcards.strategy in TUNED else 8000) * attempt,
        runtime=lambda wildcards: 48 * 60 if wildcards.strategy in TUNED else 120,
        gpu=lambda wildcards: GPUS if wildcards.strategy in TUNED else 0,
    shell: run("train", "wildcards.backbone", "wildcards.strategy")

rule explain:
    message: "explaining {wildcards.backbone}, {wildcards.strategy}"
    input:
        [f"{RUNS}/{{strategy}}/{{backbone}}/{name}" for name in ("predictions.csv", "run.json")],
        rules.images.output,
        lambda wildcards: (
            [] if wildcards.strategy in TUNED else f"{RUNS}/features/{wildcards.backbone}_{study.preprocessings[0]}.json"
        ),
    output:
        f"{RUNS}/{{strategy}}/{{backbone}}/model.keras",
        [f"{RUNS}/{{strategy}}/{{backbone}}/explanations/{name}" for name in EXPLAINED],
    params: code=step_code("explain")
    threads: NETWORK_CORES
    priority: -1  # the report alone waits for it, so it runs beside the metrics
    log: f"{RUNS}/logs/explain_{{strategy}}_{{backbone}}.log"
    resources: **needs(8000, 240, GPUS)
    shell: run("explain", "wildcards.backbone", "wildcards.strategy")

if study.robustness:

    rule robustness:
        message: "predicting changed images by {wildcards.backbone}, {wildcards.strategy}"
        input:
            [f"{RUNS}/{{strategy}}/{{backbone}}/{name}" for name in ("predictions.csv", "run.json")],
            rules.images.output,
            rules.dataset.output[0],
        output: f"{RUNS}/{{strategy}}/{{backbone}}/{ROBUSTNESS}"
        params:
            depends=depends(source=STATES.get("HAM10000", "")),  # masks may lie with the images
            code=step_code("robustness"),
        threads: NETWORK_CORES
        log: f"{RUNS}/logs/robustness_{{strategy}}_{{backbone}}.log"
        resources: **needs(8000, 240, GPUS)
        shell: run("robustness", "wildcards.backbone", "wildcards.strategy")

if study.external:

    rule external_images:
        message: "checking and decoding the external test set"
        input: rules.images.output.metadata
        output:
            metadata=f"{RUNS}/external/metadata.csv",
            images=f"{RUNS}/external/images.json",
        params:
            depends=depends(
                external=study.external,
                image_size=study.image_size,
                source=STATES["ISIC2018"],
            ),
            code=step_code("external_images"),
        threads: CORES
        log: f"{RUNS}/logs/external_images.log"
        resources: **needs(4000, 120)
        shell: run("external_images")

    rule external_features:
        message: "computing the features of the external test set by {wildcards.backbone} ({wildcards.preprocessing})"
        input:
            rules.weights.output,
            rules.external_images.output.images,
        output: f"{RUNS}/external/features_{{backbone}}_{{preprocessing}}.json"
        params:
            depends=depends(features=study.features, views=study.views),
            code=step_code("external_features"),
        threads: NETWORK_CORES
        log: f"{RUNS}/logs/external_features_{{backbone}}_{{preprocessing}}.log"
        resources: **needs(8000, 240, GPUS)
        shell: run("external_features", "wildcards.backbone", "wildcards.preprocessing")

    rule external_duplicates:
        message: "looking for images of the data set in the external test set"
        input:
            rules.images.output,
            rules.external_images.output,
        output: f"{RUNS}/external/duplicates.csv"
        params: code=step_code("external_duplicates")
        threads: CORES
        log: f"{RUNS}/logs/external_duplicates.log"
        resources: **needs(4000, 120)
        shell: run("external_duplicates")

    rule external:
        message: "predicting the external test set by {wildcards.backbone}, {wildcards.strategy}"
        input:
            # A run's record is written last: its heads are there.
            f"{RUNS}/{{strategy}}/{{backbone}}/run.json",
            rules.external_images.output.metadata,
            lambda wildcards: [
                f"{RUNS}/external/features_{wildcards.backbone}_{name}.json"
                for name in ([] if wildcards.strategy in TUNED else study.preprocessings)
            ],
        output: f"{RUNS}/{{strategy}}/{{backbone}}/predictions_{study.external}.csv"
        params:
            depends=settings_of,
            code=step_code("external"),
        threads: CORES
        log: f"{RUNS}/logs/external_{{strategy}}_{{backbone}}.log"
        resources: **needs(8000, 240, GPUS)
        shell: run("external", "wildcards.backbone", "wildcards.strategy")

rule baselines:
    message: "predicting without a network: majority, metadata, colours"
    input:
        rules.images.output,
        rules.dataset.output[0],
    output: [f"{RUNS}/baseline/{name}/{file}" for name in BASELINES for file in ("predictions.csv", "run.json")]
    params: code=step_code("baselines")
    log: f"{RUNS}/logs/baselines.log"
    resources: **needs(4000, 120)
    shell: run("baselines")

rule ensemble:
    message: "pooling the backbones, {wildcards.strategy}"
    input: lambda wildcards: [file for file in PREDICTIONS if f"/{wildcards.strategy}/" in file]
    output: [f"{RUNS}/{{strategy}}/ensemble/{file}" for file in ("predictions.csv", "run.json")]
    params:
        depends=depends(backbones=study.backbones),
        code=step_code("ensemble"),
    log: f"{RUNS}/logs/ensemble_{{strategy}}.log"
    resources: **needs(4000, 30)
    shell: run("ensemble", "wildcards.strategy")

rule evaluate:
    message: "computing the metrics"
    input:
        PREDICTIONS,
        [f"{run}/predictions.csv" for run in PSEUDO_RUNS],
        rules.images.output.metadata,
        rules.dataset.output[0],
        DISTANCE_FILES,
        ROBUSTNESS_FILES,
    output: [f"{REPORT}/{name}" for name in EVALUATED]
    params:
        depends=depends(backbones=study.backbones, strategies=study.strategies),
        code=step_code("evaluate"),
        text=content_hash("report/text/published_results.csv"),
    log: f"{RUNS}/logs/evaluate.log"
    resources: **needs(8000, 120)
    shell: run("evaluate")

for language, ending in LANGUAGES.items():

    rule:
        name: f"report_{language}"
        message: f"writing the report (notebook 3_report, {language})"
        input:
            rules.evaluate.output,
            PREDICTIONS,
            [f"{run}/{name}" for run in ALL_RUNS for name in ("history.csv", "run.json")],
            EXPLANATIONS,
            EXTERNAL_FILES,
        output:
            notebook=f"{RUNS}/report/report.{language}.ipynb",
            # The tables are the same in each language, and written with the first.
            tables=[] if ending else [f"{REPORT}/{name}" for name in study.report_files],
        params:
            depends=depends(title=study.title, overrides=study.overrides, images=study.images),
            code=step_code("report", "3_report", drawn=True),
            text=content_hash(f"report/text/{language}", *Path("report/text").glob("*.csv")),
            language=language,
        log: f"{RUNS}/logs/report_{language}.log"
        resources: **needs(4000, 60)
        shell: run("report", "params.language")

    rule:
        name: f"render_{language}"
        message: f"rendering {REPORT}/report{ending}.html and .pdf"
        input: f"{RUNS}/report/report.{language}.ipynb"
        output:
            f"{REPORT}/report{ending}.html",
            f"{REPORT}/report{ending}.pdf",
        params:
            code=step_code("render", drawn=True),
            text=content_hash("report/template"),
            language=language,
        log: f"{RUNS}/logs/render_{language}.log"
        resources: **needs(4000, 60)
        shell: run("render", "params.language")

    rule:
        name: f"slides_{language}"
        message: f"rendering {REPORT}/slides{ending}.html"
        input: f"{RUNS}/report/report.{language}.ipynb"
        output: f"{REPORT}/slides{ending}.html"
        params:
            code=step_code("slides", drawn=True),
            text=content_hash("report/template"),
            language=language,
        log: f"{RUNS}/logs/slides_{language}.log"
        resources: **needs(4000, 60)
        shell: run("slides", "params.language")