"""Checkpoints: the state of a network after each epoch, written whole or not at all, and read back.

Takes the state of a network and what it was trained with; gives a file, and refuses one of other code or data.
"""

from __future__ import annotations

import importlib.metadata
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import skin_tl
from skin_tl.errors import SkinTLError
from skin_tl.files import fingerprint, write_atomically
from skin_tl.models.backbones import import_keras
from skin_tl.models.devices import precision_of
from skin_tl.step_code import code_hash
from skin_tl.study import SMOOTHED, passes_of

if TYPE_CHECKING:
    from skin_tl.models.heads import HeadName, Job


keras = import_keras()

# --- Checkpoints ------------------------------------------------------------------------------------------------------

FORMAT = 5

# As it is when it is imported: what is on disk may change while it runs.
CODE = code_hash("models.tuning.train_networks")


def identity(job: Job, name: HeadName, rows: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return what a checkpoint belongs to: settings of the study, the data, versions."""
    settings = job.study.training_settings(job.strategy)
    for key in ("split_policies", "preprocessings", "seeds", "train_fractions"):
        settings.pop(key, None)
    settings |= {"image_size": job.study.image_size, "strategy": job.strategy, "backbone": job.backbone}
    (settings[f"{job.strategy}_rate"],) = job.study.rates(job.strategy)
    settings["precision"] = precision_of(job.study)  # what `auto` means here
    subsets = [rows[subset].tolist() for subset in ("train", "val", "test")]
    weights = {key: job.weights.get(key) for key in ("source", "fingerprint")}
    return settings | {
        "study": job.study.name,
        "head": list(name),
        "images": job.images.key,
        "split": fingerprint(subsets),
        "initial_weights": weights,
        "format": FORMAT,
        "skin-tl": skin_tl.__version__,
        "code": CODE,
        "smoothed": SMOOTHED,
        "passes": passes_of(name[-1]),
        "keras": keras.__version__,
        "backend": f"{keras.backend.backend()} {importlib.metadata.version(keras.backend.backend())}",
    }


def write_checkpoint(
    path: Path, about: dict, state: dict[str, list[np.ndarray]], best: list[np.ndarray], progress: dict
) -> None:
    """Write all that a run has learned into one file, whole or not at all.

    Parameters
    ----------
    about
        From `identity`.
    state
        From `Network.state`.
    best
        Weights of the best epoch.
    progress
        What JSON holds: ``history``, ``confusions`` (by epoch, of the validation subset), ``best`` (epoch and macro
        F1), ``seconds``, ``done``.
    """
    arrays = {
        f"{part}/{i:04d}": value for part, values in {**state, "best": best}.items() for i, value in enumerate(values)
    }
    words = json.dumps({"about": about, "progress": progress}).encode()
    with write_atomically(path) as part:
        np.savez(part, **{"words": np.frombuffer(words, np.uint8), **arrays})  # type: ignore[arg-type]  # no other option


def read_checkpoint(
    path: Path, about: dict
) -> tuple[dict[str, list[np.ndarray]], list[np.ndarray], dict[str, Any]] | None:
    """Read what `write_checkpoint` wrote; None where there is none.

    Returns
    -------
    (dict, list, dict), optional
        state, best and progress.

    Raises
    ------
    SkinTLError
        If the file is damaged, or belongs to another study, other data or another version.
    """
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            words = json.loads(file["words"].tobytes())
            arrays = {name: file[name] for name in sorted(file.files) if name != "words"}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise SkinTLError(f"{path} is damaged ({error}). Delete it: the network is trained from its start.") from None
    was, now = words["about"], json.loads(json.dumps(about))
    other = [key for key in sorted({*was, *now}) if was.get(key) != now.get(key)]
    if other:
        listed = "; ".join(f"{key} was {was.get(key)}, is {now.get(key)}" for key in other)
        raise SkinTLError(
            f"{path} is a checkpoint of another training: {listed}. Undo the change to go on from it, or delete the "
            "file: the network is trained from its start then."
        )
    parts: dict[str, list[np.ndarray]] = {}
    for name, value in arrays.items():
        parts.setdefault(name.partition("/")[0], []).append(value)
    return parts, parts.pop("best"), words["progress"]
