"""Finished runs out of nothing: files as the workflow leaves them, with random but plausible predictions.

`fabricate` writes below any root what ``./run_all.sh`` would have written below the project, in a second and without a
network having been trained.  The images are noise.  Point ``SKIN_TL_CACHE`` at ``<root>/cache`` to have them found.
"""

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import special

from skin_tl.data.splits import draw_experiments, draw_splits, split_fingerprints
from skin_tl.evaluation.predictions import ensemble, where
from skin_tl.evaluation.scoring import write_evaluation
from skin_tl.evaluation.study_files import read_study_files
from skin_tl.explain.explanations import choose, explained_head, likeness, share_in_the_middle, tested_images
from skin_tl.explain.robustness import changes, draw_images
from skin_tl.files import alone, fingerprint, write_csv, write_json
from skin_tl.models import baselines
from skin_tl.schema import (
    CLASSES,
    DISTANCE_COLUMNS,
    DISTANCES,
    EXPERIMENT,
    PREDICTION_COLUMNS,
    PROBABILITIES,
    ROBUSTNESS,
    ROBUSTNESS_PREDICTIONS,
    STRATEGIES,
)
from skin_tl.study import check_study

SHARED = Path(os.environ.get("SKIN_TL_TEST_SHARED") or tempfile.mkdtemp())
"""Where all processes of the tests find what one of them computed."""

# Lesions per diagnosis, HAM10000's order of frequency.
N_LESIONS = {"akiec": 12, "bcc": 16, "bkl": 30, "df": 10, "mel": 32, "nv": 150, "vasc": 10}
PARAMETERS = {
    "VGG16": (14_714_688, 138_357_544, 512),
    "Xception": (20_861_480, 22_910_480, 2048),
    "ResNet50": (23_587_712, 25_636_712, 2048),
    "EfficientNetB7": (64_097_687, 66_658_687, 2560),
}
# How far the right diagnosis stands out from the noise of the logits.
SKILL = {"VGG16": 1.6, "Xception": 1.7, "ResNet50": 2.0, "EfficientNetB7": 1.3}

# The share of it that the same backbone has with random weights.
RANDOM_SKILL = {"VGG16": 0.5, "Xception": 1.0, "ResNet50": 0.4, "EfficientNetB7": 1.6}

# What networks are trained with where a study leaves the batch to the machine.
BATCHES = {"VGG16": 32, "Xception": 64, "ResNet50": 128, "EfficientNetB7": 16}

# What studies differ in: changes to the small one below, and options of `fabricate`.
STUDIES = {
    "demo": ({}, {}),
    "demo_random": ({}, {"weights": "random"}),
    "one": ({"backbones": ["Xception"], "seeds": [3]}, {}),
    "reproduction": ({"dataset": "ham10000", "split_policies": ["image"], "preprocessings": ["unit", "native"]}, {}),
    "strategies": ({"backbones": ["VGG16", "ResNet50"], "strategies": list(STRATEGIES)}, {}),
    "tuned": ({"backbones": ["ResNet50"], "strategies": ["from_scratch"], "leakage": False, "other_splits": 0}, {}),
    "curves": (
        {
            "backbones": ["ResNet50", "VGG16"],
            "strategies": list(STRATEGIES),
            "train_fractions": [0.1, 0.4, 1],
            "leakage": False,
            "other_splits": 0,
        },
        {},
    ),
    "lesion": (
        {
            **{"dataset": "ham10000", "backbones": ["ResNet50", "VGG16"], "image_size": 224, "external": "isic2018"},
            "robustness": True,
        },
        {},
    ),
}


def fabricate(root, name="tiny", changes=None, weights="imagenet", metadata=None, seed=0, alike=0.0):
    """Write the files of a study's finished runs.

    Parameters
    ----------
    root : pathlib.Path
        Gets ``runs/<name>`` and ``cache``.
    name : str
    changes : dict, optional
        Keys of the study that differ from the small one below.
    weights : {'imagenet', 'random'}
    metadata : pandas.DataFrame, optional
        Instead of the fabricated one.
    seed : int
    alike : float
        Share (0…1) of the noise in its predictions that an image has in common with other images of its lesion.

    Returns
    -------
    pathlib.Path
        ``runs/<name>/study.json``.
    """
    study = {
        "name": name,
        "title": "A fabricated study",
        "dataset": "synthetic",
        "image_size": 32,
        "backbones": ["VGG16", "Xception", "ResNet50", "EfficientNetB7"],
        "strategies": ["feature_extraction"],
        "split_policies": ["lesion"],
        "preprocessings": ["native"],
        "seeds": [1, 2],
        "weights": "imagenet_or_random",
        "leakage": True,
        "other_splits": 4,
        "external": None,
        "images": True,
        "l2": [0.001, 0.01],
        "max_epochs": 100,
        "patience": 8,
        "overrides": [],
    } | (changes or {})
    if study["strategies"] == ["from_scratch"]:  # which has no head that they would be of
        study = {key: value for key, value in study.items() if key not in ("l2", "max_epochs", "patience")}
    study = check_study(study).model_dump()
    rng = np.random.default_rng(seed)
    folder = root / "runs" / name
    metadata = fabricate_metadata(rng) if metadata is None else metadata
    splits = draw_splits(metadata, study["split_policies"], study["seeds"])
    experiments = draw_experiments(check_study(study), metadata)
    write_json(folder / "study.json", study)
    write_csv(folder / "dataset" / "metadata.csv", metadata)
    write_csv(folder / "dataset" / "splits.csv", splits)
    write_csv(folder / "dataset" / "near_duplicates.csv", _near_duplicates(metadata))
    elsewhere = _fabricate_external(folder, study, np.random.default_rng(seed + 1))
    key = _write_images(root / "cache" / "images", sorted(metadata["image_id"]), study["image_size"], rng)
    about = {"key": key, "folder": f"cache/images/{key}", "n_images": len(metadata), "image_size": study["image_size"]}
    about |= {"merged_lesions": {}, "near_duplicates": {"n_pairs": 3, "n_grouped": 2}}
    about |= {"dataset": study["dataset"], "synthetic": study["dataset"] == "synthetic", "fingerprint": key}
    odd = len(metadata) // 10  # a tenth of the files has another size
    sizes = [{"width": 600, "height": 450, "n_images": len(metadata) - odd}]
    if study["dataset"] == "ham10000":
        sizes = [{"width": 200, "height": 150, "n_images": len(metadata)}]
    elif odd:
        sizes.append({"width": 300, "height": 300, "n_images": odd})
    write_json(folder / "dataset" / "images.json", about | {"source": "fabricated", "file_sizes": sizes})
    sources = {backbone: {"source": "random" if weights == "random" else "keras"} for backbone in study["backbones"]}
    reason = "the hub did not answer" if weights == "random" else ""
    source = weights if check_study(study).transfers else "none"
    write_json(folder / "weights.json", {"source": source, "reason": reason, "backbones": sources})
    for strategy in study["strategies"]:
        predictions = {}
        for backbone in study["backbones"]:
            run = folder / strategy / backbone
            of_run = (study, strategy, backbone, rng, alike, weights != "random")
            predictions[backbone] = _predictions(metadata, splits, experiments, *of_run)
            write_csv(run / "predictions.csv", predictions[backbone])
            history = _history(study, strategy, rng)
            record = _record(study, strategy, backbone, splits, key, sources[backbone], weights)
            if (predictions[backbone]["arm"] == "random_weights").any():
                again = history[
                    (history["preprocessing"] == check_study(study).control) & (history["train_fraction"] == 1)
                ]
                history = pd.concat([history, again.assign(arm="random_weights", l2=0.001)], ignore_index=True)
                record["timings"] |= {"features_random_s": 12.5, "heads_random_s": 12.5}
            write_csv(run / "history.csv", history)
            write_json(run / "run.json", record)
            if len(study["train_fractions"]) > 1:  # its size is shown
                (run / "model.keras").write_bytes(bytes(100_000 * (1 + study["backbones"].index(backbone))))
            if study["robustness"]:
                write_csv(run / ROBUSTNESS, _changed(predictions[backbone], study, np.random.default_rng(seed + 4)))
            _write_explanations(run / "explanations", predictions[backbone], metadata, study, seed)
            if study["external"]:
                write_csv(run / f"predictions_{study['external']}.csv", elsewhere[backbone])
        if len(predictions) > 1:
            own = {name: table.query("arm == 'main' and train_fraction == 1") for name, table in predictions.items()}
            own = {name: pd.concat([table, *([elsewhere[name]] if elsewhere else [])]) for name, table in own.items()}
            write_csv(folder / strategy / "ensemble" / "predictions.csv", ensemble(own))
    if "feature_extraction" in study["strategies"]:
        write_csv(folder / DISTANCES, _distances(folder, study, np.random.default_rng(seed + 3)))
    noise = rng.integers(0, 255, (len(metadata), 4, 4, 3), dtype=np.uint8)
    for name, pixels in (("majority", ()), ("metadata_only", ()), ("colour_histogram", (noise, metadata["image_id"]))):
        table = getattr(baselines, name)(metadata, splits, *pixels)
        write_csv(folder / "baseline" / name / "predictions.csv", table)
    return folder / "study.json"


def evaluate(study_file, n_boot=40):
    """Write what the workflow's step before the report does, with few draws.

    The same predictions of the same settings are evaluated once in a run of the tests, whatever their study is called.
    """
    files = read_study_files(study_file)
    settings = files.study.model_dump(exclude={"name", "title"})
    tables = [study_file.parent / "dataset" / "metadata.csv", *sorted(study_file.parent.rglob("predictions.csv"))]
    made = SHARED / "evaluated" / fingerprint(settings, n_boot, *(file.read_bytes() for file in tables))
    with alone(made):
        if not (made / "metrics.csv").is_file():
            write_evaluation(files, made, n_boot)
    folder = files.root / "report" / files.study.name
    shutil.copytree(made, folder, dirs_exist_ok=True, copy_function=shutil.copyfile)


def fabricate_metadata(rng):
    """Draw a table of metadata: two images for a third of the lesions."""
    rows = []
    for dx, n_lesions in N_LESIONS.items():
        for lesion in range(n_lesions):
            for _ in range(1 + (rng.random() < 1 / 3)):
                rows.append(
                    {
                        "lesion_id": f"HAM_{dx}_{lesion:03d}",
                        "image_id": f"ISIC_{len(rows):07d}",
                        "dx": dx,
                        "dx_type": rng.choice(["histo", "follow_up", "consensus"]),
                        "age": rng.choice(["", "45.0", "60.0"]),
                        "sex": rng.choice(["female", "male", "unknown"]),
                        "localization": rng.choice(["back", "face", "trunk", "unknown"]),
                    }
                )
    return pd.DataFrame(rows)


def _changed(predictions, study, rng):
    """Draw what a network predicts for changed images: corruptions blur its probabilities, most without lesion."""
    images = draw_images(tested_images(predictions, check_study(study)))
    head = where(predictions, arm="main", train_fraction=1.0, subset="test", **explained_head(check_study(study)))
    logits = np.log(head.set_index("image_id").loc[images["image_id"], PROBABILITIES].to_numpy())
    parts = []
    for kind, change, severity in changes():
        strength = 0 if kind == "none" else 3 if change == "no_lesion" else 0.3 + 0.4 * severity
        chances = special.softmax(logits + rng.normal(0, strength, logits.shape), axis=1)
        table = images.join(pd.DataFrame(chances, columns=PROBABILITIES))
        mask = np.where(np.arange(len(table)) % 3, "released", "found") if kind == "mask" else ""
        parts.append(table.assign(kind=kind, change=change, severity=severity, mask=mask))
    return pd.concat(parts, ignore_index=True)[ROBUSTNESS_PREDICTIONS]


def _near_duplicates(metadata):
    """Make three pairs of near-duplicate lesions, of which two are grouped: three lesion ids that are one lesion."""
    first, last = metadata["lesion_id"].iloc[[0, -1]]
    pairs = [(f"{first}_a", first, True), (f"{first}_b", f"{first}_a", True), (last, first, False)]
    table = pd.DataFrame(pairs, columns=["lesion_id", "nearest_lesion_id", "grouped"])
    return table.assign(image_id=table["lesion_id"], nearest_image_id=table["nearest_lesion_id"], dx="nv", ratio=0.2)


def _write_images(folder, ids, size, rng):
    key = fingerprint("fabricated", size, ids)
    (folder / key).mkdir(parents=True, exist_ok=True)
    np.save(folder / key / "images.npy", rng.integers(0, 255, (len(ids), size, size, 3), dtype=np.uint8))
    write_csv(folder / key / "index.csv", pd.DataFrame({"image_id": ids}))
    return key


def _write_explanations(folder, predictions, metadata, study, seed):
    """Write what the step `explain` does, with noise for maps and places near those of the same diagnosis."""
    rng, size = np.random.default_rng(seed + 2), study["image_size"]
    chosen = choose(tested_images(predictions, check_study(study)))
    maps, shuffled = (rng.random((len(chosen), size, size)).astype(np.float16) for _ in range(2))
    maps[-1] = 0  # nothing in the image speaks for it
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "maps.npy", maps)
    np.save(folder / "shuffled_maps.npy", shuffled)
    chosen = chosen.assign(map_side=7, middle=share_in_the_middle(maps), likeness=likeness(maps, shuffled))
    write_csv(folder / "images.csv", chosen)
    drawn = metadata.sort_values("image_id").iloc[rng.permutation(len(metadata))[: len(metadata) // 2]]
    places = rng.normal(0, 1.5, (len(drawn), 2)) + 3 * np.array([CLASSES.index(dx) % 3 for dx in drawn["dx"]])[:, None]
    points = drawn[["image_id", "lesion_id", "dx"]].assign(x=places[:, 0].round(3), y=places[:, 1].round(3))
    write_csv(folder / "points.csv", points.sort_values("image_id"))


def _fabricate_external(folder, study, rng):
    """Draw an external test set and what each backbone predicts for it; return the predictions by backbone."""
    if not study["external"]:
        return {}
    write_csv(folder / "external" / "duplicates.csv", pd.DataFrame({"image_id": ["ELSEWHERE_000"]}))
    n_images = {dx: 4 + n // 4 for dx, n in N_LESIONS.items()}
    dx = np.repeat(list(n_images), list(n_images.values()))
    names = [f"ELSEWHERE_{place:03d}" for place in range(len(dx))]
    lesions = [f"{name}_{place // 2 if place < 20 else place}" for place, name in enumerate(dx)]
    common = pd.Series(dx).value_counts(normalize=True).reindex(CLASSES).to_numpy()
    found = {}
    for backbone in study["backbones"]:
        parts = []
        for cell in _cells(study):
            chances = _chances(dx, 0.7 * SKILL[backbone], common, rng)
            table = pd.DataFrame({"image_id": names, "lesion_id": lesions, "dx": dx}).assign(**cell)
            table = table.assign(dataset=study["external"], arm="main", train_fraction=1.0, subset="test")
            parts.append(table.join(chances)[PREDICTION_COLUMNS])
        found[backbone] = pd.concat(parts, ignore_index=True)
    return found


def _cells(study):
    return [
        {"split_policy": policy, "preprocessing": preprocessing, "seed": seed}
        for preprocessing in study["preprocessings"]
        for policy in study["split_policies"]
        for seed in study["seeds"]
    ]


def _distances(folder, study, rng):
    """Draw how far each predicted image lies from the training images: the farther, the less sure the network is."""
    parts = []
    for backbone in study["backbones"]:
        for file in sorted((folder / "feature_extraction" / backbone).glob("predictions*.csv")):
            table = pd.read_csv(file)
            table = table[(table["arm"] == "main") & (table["train_fraction"] == 1)].assign(backbone=backbone)
            sure = table[PROBABILITIES].max(axis=1)
            parts.append(table.assign(distance=(1.2 - sure + rng.exponential(0.3, len(table))).round(6)))
    return pd.concat(parts, ignore_index=True)[DISTANCE_COLUMNS]


def _predictions(metadata, splits, experiments, study, strategy, backbone, rng, alike, pretrained):
    common = metadata["dx"].value_counts(normalize=True).reindex(CLASSES).to_numpy()
    truth = metadata.set_index("image_id")["dx"]
    own = [splits.assign(arm="main", preprocessing=name) for name in study["preprocessings"]]
    every = pd.concat([*own, experiments], ignore_index=True).assign(train_fraction=1.0)
    smaller = [fraction for fraction in study["train_fractions"] if fraction < 1]
    every = pd.concat([every, *(every[every["arm"] == "main"].assign(train_fraction=part) for part in smaller)])
    control = check_study(study).control if strategy == "feature_extraction" and pretrained else None
    again = every[(every["arm"] == "main") & (every["train_fraction"] == 1) & (every["preprocessing"] == control)]
    every = pd.concat([every, again.assign(arm="random_weights")])
    of_arm = {"random_weights": np.random.default_rng(17)}  # leaves the numbers of the others as they are
    parts = []
    for (arm, _, preprocessing, _, fraction), drawn in every.groupby([*EXPERIMENT, "train_fraction"], sort=False):
        rows = drawn[drawn["subset"] != "train"].reset_index(drop=True)
        dx = truth[rows["image_id"]].to_numpy()
        skill = SKILL[backbone] * (0.6 if preprocessing == "unit" and backbone != "Xception" else 1)
        skill += 0.3 * (arm == "leak_with_siblings")
        skill *= RANDOM_SKILL[backbone] if arm == "random_weights" else 1
        if smaller:  # more lesions help, and from scratch more are needed
            skill *= fraction**0.3 * (0.7 if strategy == "from_scratch" else 1)
        table = rows.assign(dataset="internal", dx=dx)
        parts.append(table.join(_chances(dx, skill, common, of_arm.get(arm, rng), rows["lesion_id"], alike)))
    return pd.concat(parts, ignore_index=True)[PREDICTION_COLUMNS]


def _chances(dx, skill, common, rng, lesions=None, alike=0.0):
    """Draw probabilities for images of these diagnoses; `common` holds how frequent each diagnosis is."""
    noise = rng.normal(0, 1, (len(dx), len(CLASSES)))
    if alike:
        names, of = np.unique(lesions, return_inverse=True)
        noise = np.sqrt(1 - alike) * noise + np.sqrt(alike) * rng.normal(0, 1, (len(names), len(CLASSES)))[of]
    logits = noise + 0.6 * np.log(common)
    logits[np.arange(len(dx)), [CLASSES.index(name) for name in dx]] += skill
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return pd.DataFrame(chances, columns=PROBABILITIES)


def _history(study, strategy, rng):
    stages = {"feature_extraction": ["head"], "fine_tuning": ["head", "fine_tuning"]}.get(strategy, [strategy])
    parts = []
    for cell in _cells(study):
        for stage in stages:
            epochs = np.arange(1, min(rng.integers(18, 30), study.get(f"{stage}_epochs", 99) + 1))
            loss = 0.4 + 1.2 * np.exp(-epochs / 5)
            table = pd.DataFrame({"epoch": epochs, "loss": loss, "accuracy": 1 - loss / 2})
            table["val_loss"] = loss + 0.1 + 0.01 * epochs
            table["val_accuracy"] = 1 - table["val_loss"] / 2
            table["macro_f1"], table["val_macro_f1"] = 1 - loss / 2, 1 - table["val_loss"] / 2
            table["kept"] = table["epoch"] == table.loc[table["val_macro_f1"].idxmax(), "epoch"]
            l2 = 0.01 if stage == "head" else np.nan
            parts += [
                table.assign(arm="main", train_fraction=fraction, stage=stage, l2=l2, **cell)
                for fraction in study["train_fractions"][::-1]
            ]
    columns = ["arm", "train_fraction", "split_policy", "preprocessing", "seed", "stage", "l2", "epoch"]
    return pd.concat(parts, ignore_index=True)[
        [*columns, "loss", "accuracy", "macro_f1", "val_loss", "val_accuracy", "val_macro_f1", "kept"]
    ]


def _record(study, strategy, backbone, splits, key, source, weights):
    n_parameters, with_classifier, n_features = PARAMETERS[backbone]
    steps = {"feature_extraction": ("features", "heads"), "fine_tuning": ("features", "networks")}
    timings = {
        f"{step}_{name}_s": 12.5 for name in study["preprocessings"] for step in steps.get(strategy, ("networks",))
    }
    rates = {}
    if strategy != "feature_extraction":
        found = [
            {"arm": "main", "train_fraction": fraction, "rate": rate, "epochs": 20, "kept": rate == 0.003, **cell}
            | {"val_macro_f1": 0.5 - rate}
            for cell in _cells(study)
            for fraction in study["train_fractions"]
            for rate in study[f"{strategy}_rate"]
        ]
        rates = {"rates": found}
        timings |= {f"networks_{name}_fractions_s": 3.5 for name in study["preprocessings"]}
    return {
        "study": study["name"],
        "strategy": strategy,
        "backbone": backbone,
        "parameters": study,
        "n_parameters": n_parameters,
        "n_parameters_with_classifier": with_classifier,
        "n_features": n_features,
        "weights": source,
        "random_weights": weights == "random",
        "synthetic_data": study["dataset"] == "synthetic",
        "git_commit": "0123456789ab",
        "data_fingerprint": key,
        "split_fingerprints": split_fingerprints(splits),
        "n_cores": 2,
        "versions": {"python": "3.11.9", "keras": "3.15.1"},
        "device": "tensorflow on cpu:0 (x86_64, 2 cores)",
        "timings": timings,
        **rates,
        **({} if strategy == "feature_extraction" else {"images_per_second": 80.0, "batch": BATCHES[backbone]}),
        "started": "2026-01-02T03:04:05+00:00",
        "finished": "2026-01-02T03:05:06+00:00",
    }
