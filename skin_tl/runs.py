"""A study's runs: the files that one step writes and another reads.

Takes a study and its folder ``runs/<study>``; gives what a training run needs (`Prepared`), made or read back.
"""

import importlib.metadata
import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime

import pandas as pd

from skin_tl.backbones import resolve_weights
from skin_tl.dataset import (
    PARTS,
    merge_lesions,
    open_dataset,
    refuse_download,
    remember_source,
    shared_pictures,
)
from skin_tl.duplicates import near_duplicates
from skin_tl.errors import SkinTLError
from skin_tl.files import ROOT, read_json, write_csv, write_json
from skin_tl.images import ImageSet, decode, file_sizes, picture_hashes
from skin_tl.progress import say
from skin_tl.splits import draw_experiments, draw_splits, split_fingerprints
from skin_tl.step_code import step_code
from skin_tl.study import load_study

PACKAGES = ("keras", "tensorflow", "jax", "torch", "numpy", "scikit-learn", "pandas", "pillow", "skin-tl")
"""Packages whose versions a run's record names."""


@dataclass(frozen=True)
class Prepared:
    """What a training run needs besides the study.

    Attributes
    ----------
    metadata : pandas.DataFrame
        The checked table, sorted by image id.
    splits : pandas.DataFrame
    experiments : pandas.DataFrame
        Splits of what the study trains beside its own heads, see `skin_tl.splits.draw_experiments`.
    images : skin_tl.images.ImageSet
    weights : dict
        What `skin_tl.backbones.resolve_weights` returned; empty where a workflow trains from random weights before it.
    """

    metadata: pd.DataFrame
    splits: pd.DataFrame
    experiments: pd.DataFrame
    images: ImageSet
    weights: dict


def prepare(study, folder, made=False):
    """Return what a training run needs.

    Parameters
    ----------
    study : skin_tl.study.Study
    folder : pathlib.Path
        The study's folder below ``runs/``.
    made : bool
        True reads what earlier steps of the workflow wrote; False makes it (what the cache holds is not computed
        again).

    Returns
    -------
    Prepared
    """
    if made:
        metadata, images = read_metadata_table(folder), read_images(folder)
        splits, experiments = read_splits(folder), read_experiments(folder)
        weights = folder / "weights.json"  # for which training from random weights does not wait
        return Prepared(metadata, splits, experiments, images, read_json(weights) if weights.is_file() else {})
    weights = prepare_weights(study, folder)
    metadata, images = prepare_images(study, folder)
    splits, experiments = prepare_splits(study, metadata, folder)
    return Prepared(metadata, splits, experiments, images, weights)


def prepare_weights(study, folder):
    """Resolve the weights of the study's backbones and write weights.json."""
    weights = resolve_weights(study.backbones, study.weights if study.transfers else "none")
    write_json(folder / "weights.json", weights)
    return weights


def open_part(study, part, folder):
    """Open what a part of a study's runs is made from; nothing is downloaded for what was made from a folder.

    Parameters
    ----------
    study : skin_tl.study.Study
    part : {'dataset', 'external'}
    folder : pathlib.Path
        The study's folder below ``runs/``.

    Returns
    -------
    skin_tl.dataset.Dataset

    Raises
    ------
    SkinTLError
        If it cannot be had, or is not what it should be.
    """
    for name in study.releases:
        if PARTS[name] == part:
            refuse_download(name, folder / part)
    if part == "external":
        from skin_tl.external import open_isic2018

        return open_isic2018()
    return open_dataset(study)


def prepare_images(study, folder):
    """Open the data set, decode its images, group lesions that are one, and write the tables of dataset/.

    Lesions that share a picture are one lesion from here on (see `skin_tl.dataset.merge_lesions`), and with the key
    `group_near_duplicates` those of one diagnosis that have near-duplicate images too (see `skin_tl.duplicates`).
    metadata.csv has the lesion ids that result; near_duplicates.csv lists what was found.

    Returns
    -------
    metadata : pandas.DataFrame
        As written.
    images : skin_tl.images.ImageSet
    """
    data = open_part(study, "dataset", folder)
    images = decode(data.files, study.image_size)
    links, contradictory = shared_pictures(data.metadata, picture_hashes(images))
    metadata, merged = merge_lesions(data.metadata, links)
    pairs = near_duplicates(images.pixels, metadata.set_index("image_id").loc[images.ids].reset_index())
    pairs["grouped"] = (pairs["dx"] == pairs["nearest_dx"]) & study.group_near_duplicates
    lesions = pairs.loc[pairs["grouped"], ["lesion_id", "nearest_lesion_id"]]
    metadata, _ = merge_lesions(metadata, list(lesions.itertuples(index=False)))
    write_csv(folder / "dataset" / "near_duplicates.csv", pairs)
    if merged:
        say(
            f"  note: {len(merged)} lesions share a picture with another one, and count as one lesion with it, such as "
            f"{next(iter(merged))}. {folder / 'dataset' / 'images.json'} lists them."
        )
    if contradictory:
        say(
            f"  WARNING: {len(contradictory)} pictures stand in the table with several diagnoses, such as "
            f"{' and '.join(contradictory[0][:2])}. Correct their rows: a score on them tells nothing."
        )
    found = {
        "merged_lesions": merged,
        "contradictory_images": contradictory,
        "near_duplicates": {"n_pairs": len(pairs), "n_grouped": len(lesions)},
    }
    write_images(data, metadata, images, study.dataset, folder / "dataset", **found)
    return metadata, images


def write_images(data, metadata, images, name, folder, **more):
    """Write metadata.csv, and images.json, which says what was decoded from where and how large the files are.

    Parameters
    ----------
    data : skin_tl.dataset.Dataset
    metadata : pandas.DataFrame
        Its metadata, with the lesion ids to use.
    images : skin_tl.images.ImageSet
    name : str
        Of the data set, as a study calls it.
    folder : pathlib.Path
        Where the two files go.
    **more
        Further entries of images.json.
    """
    write_csv(folder / "metadata.csv", metadata)
    about = {
        "key": images.key,
        "folder": os.path.relpath(images.folder),
        "n_images": len(data.files),
        "image_size": images.size,
        "dataset": name,
        "synthetic": data.synthetic,
        "fingerprint": data.fingerprint,
        "source": data.source,
        "file_sizes": file_sizes(data.files.values()),
        "code": step_of(folder.name),
    }
    write_json(folder / "images.json", about | more)
    if not data.synthetic:
        remember_source(name.upper(), folder)


def step_of(part):
    """Return the hash of the code that decodes a part of a study's runs, ``dataset`` or ``external``."""
    return step_code("images" if part == "dataset" else "external_images")


def prepare_splits(study, metadata, folder):
    """Draw the study's splits and those of its experiments; write dataset/splits.csv and dataset/experiments.csv.

    Returns
    -------
    splits, experiments : pandas.DataFrame
        From `skin_tl.splits.draw_splits` and `skin_tl.splits.draw_experiments`.
    """
    splits = draw_splits(metadata, study.split_policies, study.seeds)
    experiments = draw_experiments(study, metadata)
    write_csv(folder / "dataset" / "splits.csv", splits)
    write_csv(folder / "dataset" / "experiments.csv", experiments)
    return splits, experiments


def read_metadata_table(folder, part="dataset"):
    """Read dataset/metadata.csv (or external/metadata.csv) back as `write_images` wrote it."""
    return _read_csv(folder / part / "metadata.csv", dtype={"age": float})


def read_splits(folder):
    """Read dataset/splits.csv back as `prepare_splits` wrote it."""
    return _read_csv(folder / "dataset" / "splits.csv")


def read_experiments(folder):
    """Read dataset/experiments.csv back as `prepare_splits` wrote it."""
    return _read_csv(folder / "dataset" / "experiments.csv")


def read_images(folder, part="dataset"):
    """Return the decoded images that dataset/images.json (or external/images.json) names.

    Where the cache no longer holds them, they are decoded again.

    Raises
    ------
    SkinTLError
        If they have to be decoded again, and the data set cannot be had or is another by now.
    """
    about = read_json(folder / part / "images.json")
    images = ImageSet(about["key"], about["image_size"])
    if not images.folder.is_dir():
        again = decode(open_part(load_study(folder / "study.json"), part, folder).files, images.size)
        if again != images:
            raise SkinTLError(
                f"{images.folder} is gone (was the cache deleted?), and the data set is not the one that "
                f"{folder / part / 'images.json'} names. Bring that one back, or delete this file and start again."
            )
    return images


def _read_csv(path, dtype=None):
    text = {name: str for name in ("image_id", "lesion_id", "dx", "dx_type", "sex", "localization", "subset")}
    try:
        return pd.read_csv(path, dtype=text | (dtype or {}), keep_default_na=False, na_values={"age": [""]})
    except FileNotFoundError:
        raise SkinTLError(f"{path} is missing. It is written by `./run_all.sh`: run that first.") from None


def weights_note(weights, strategy="feature_extraction"):
    """Say in one sentence which weights a run begins with.

    Parameters
    ----------
    weights : dict
        What `skin_tl.backbones.resolve_weights` returned.
    strategy : str
    """
    if strategy == "from_scratch":
        return "Random weights: nothing is transferred."
    if weights["source"] == "random":
        return f"Random weights, not ImageNet's: {weights['reason']}. The scores show what untrained networks give."
    return "ImageNet weights."


def run_record(study, strategy, backbone, data_fingerprint, splits, started):
    """Return what every ``run.json`` holds, as a dict.

    Parameters
    ----------
    study : skin_tl.study.Study
    strategy, backbone : str
    data_fingerprint : str
        Key of the decoded images.
    splits : pandas.DataFrame
    started : datetime.datetime
        In UTC.
    """
    return {
        "study": study.name,
        "strategy": strategy,
        "backbone": backbone,
        "parameters": study.model_dump(),
        "synthetic_data": study.synthetic,
        "git_commit": git_commit(),
        "data_fingerprint": data_fingerprint,
        "split_fingerprints": split_fingerprints(splits),
        "versions": versions(),
        "n_cores": os.cpu_count(),
        "started": started.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def write_pseudo_run(study, folder, strategy, name, predictions, started):
    """Write the run of a baseline or an ensemble: predictions.csv and run.json, as a backbone's run has them.

    Parameters
    ----------
    study : skin_tl.study.Study
    folder : pathlib.Path
        The study's folder below ``runs/``.
    strategy, name : str
        Of `skin_tl.study.Study.pseudo_runs`.
    predictions : pandas.DataFrame
        Columns of ``predictions.csv``.
    started : datetime.datetime
        In UTC.
    """
    run = folder / strategy / name
    write_csv(run / "predictions.csv", predictions)
    record = run_record(study, strategy, name, read_images(folder).key, read_splits(folder), started)
    seconds = (datetime.now(UTC) - started).total_seconds()
    write_json(run / "run.json", record | {"timings": {"heads_s": round(seconds, 3)}})


def git_commit():
    """Return the project's commit, with ``-dirty`` where tracked files differ, or ``unknown`` outside git."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def versions():
    """Return the versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
