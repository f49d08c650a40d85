"""Devices: the processor or the GPUs that networks are trained on.

Takes the settings of a study; gives the device, the precision, and the reason why a GPU is not used.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import subprocess
import sys
from typing import TYPE_CHECKING

from joblib import cpu_count

from skin_tl.errors import SkinTLError
from skin_tl.models.backbones import import_keras

if TYPE_CHECKING:
    from skin_tl.study import Study


keras = import_keras()


def gpus() -> list[str]:
    """Return the GPUs that Keras's backend finds, list of str."""
    try:
        return [name for name in keras.distribution.list_devices("gpu") if name.lower().startswith(("gpu", "cuda"))]
    except RuntimeError:  # JAX, where it has none
        return []


def why_no_gpu() -> str:
    """Return the last that Keras's backend says of GPUs when it looks for them, after a colon; empty if nothing."""
    code = "import keras; keras.distribution.list_devices('gpu')"
    env = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "0", "KERAS_BACKEND": keras.backend.backend()}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, errors="replace")
    lines = [line for line in done.stderr.splitlines() if re.search("gpu|cuda", line, re.IGNORECASE)]
    return ": " + lines[-1].split("] ", 1)[-1].strip().rstrip(".") if lines else ""


def device(cpu: bool = False) -> str:
    """Return what the arithmetic ran on, for people: backend, kind of device (`cpu`: never a GPU), usable cores."""
    devices = ["cpu"] if cpu else keras.distribution.list_devices() or ["cpu"]
    cores = f"{cpu_count()} core{'s' if cpu_count() > 1 else ''}"
    return f"{keras.backend.backend()} on {', '.join(devices)} ({platform.machine()}, {cores})"


def precision_of(study: Study) -> str:
    """Return what a study's networks compute in while they learn on this machine, ``float32`` or ``bfloat16``."""
    if study.precision != "auto":
        return study.precision
    return "bfloat16" if study.device != "cpu" and gpus() else "float32"


def on_device(study: Study) -> contextlib.AbstractContextManager:
    """Return a context in which networks are built and trained on the device that a study asks for.

    Raises
    ------
    SkinTLError
        If a GPU is asked for and not there.
    """
    if study.device == "gpu" and not gpus():
        raise SkinTLError(
            f"`device: gpu`, but {keras.backend.backend()} finds no GPU on this machine{why_no_gpu()}. Follow "
            "docs/install.md#gpu, or set `device: auto`."
        )
    return keras.device("cpu") if study.device == "cpu" else contextlib.nullcontext()


def hold_to_determinism(study: Study) -> None:
    """Let GPUs compute the same bits each time if the study asks for it; to be called before anything is computed.

    The backends read these variables of the env once, when they begin (NVIDIA's and OpenXLA's documentation).
    """
    if study.deterministic:
        os.environ["TF_DETERMINISTIC_OPS"] = "1"
        flags = os.environ.get("XLA_FLAGS", "").split()
        os.environ["XLA_FLAGS"] = " ".join(dict.fromkeys([*flags, "--xla_gpu_deterministic_ops=true"]))


def is_out_of_memory(error: Exception) -> bool:
    names = ("ResourceExhaustedError", "RESOURCE_EXHAUSTED", "MemoryError")  # each backend has a type of its own
    return any(word in f"{type(error).__name__}: {error}" for word in names)
