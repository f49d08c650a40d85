"""What all benchmarks share: ratios measured in one run, their table and the description of the machine.

Takes two sides as callables; gives rows, see `Row`, whose ratio is the median of turns that alternate the two sides, so
that other load and a warming processor meet both.
"""

import importlib
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, fields
from importlib import metadata
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]


class Skipped(Exception):
    """A benchmark, or a side of it, lacks data, weights or a library; the message says which."""


@dataclass
class Row:
    """One line of the table.

    Attributes
    ----------
    benchmark, case
        What is measured, and with which sizes.
    ours, other
        Medians of the turns, in `unit`; what `other` is stands in `case`.
    ratio, lowest, highest
        Of the turns: the median, the smallest and the largest.
    aim
        Such as ``>= 1.0`` or ``<= 1.05``; empty where there is none.
    note
        Why it was skipped, or what qualifies it.
    """

    benchmark: str
    case: str
    ours: float | None = None
    other: float | None = None
    unit: str = "s"
    ratio: float | None = None
    lowest: float | None = None
    highest: float | None = None
    turns: int = 0
    aim: str = ""
    note: str = ""


COLUMNS = [field.name for field in fields(Row)]


def seconds(run):
    """Return the wall time of a call in s."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def alternate(sides, turns):
    """Time several sides in turns, each turn in the reverse order of the last; the first calls are not counted.

    Parameters
    ----------
    sides : dict of callable
    turns : int

    Returns
    -------
    dict of list of float
        Seconds of each turn, by side.
    """
    took = {name: [] for name in sides}
    for turn in range(-1, turns):
        for name in list(sides)[:: -1 if turn % 2 else 1]:
            spent = seconds(sides[name])
            if turn >= 0:
                took[name].append(spent)
    return took


def ratio_row(benchmark, case, ours, other, faster=True, **more):
    """Return the row of two sides that were timed in turns.

    Parameters
    ----------
    ours, other : list of float
        Seconds of each turn.
    faster : bool
        Whether the ratio is how many times faster ours is (other / ours), or how many times longer it takes.
    """
    ratios = [theirs / own if faster else own / theirs for own, theirs in zip(ours, other, strict=True)]
    medians = {"ours": statistics.median(ours), "other": statistics.median(other)}
    spread = {"ratio": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}
    return Row(benchmark, case, **medians, **spread, turns=len(ratios), **more)


def outcome(ratio, aim):
    """Tell whether a ratio meets an aim such as ``>= 1.0``: ``met``, ``missed``, or nothing where there is no aim."""
    if not aim:
        return ""
    sign, bound = aim.split()
    return "met" if (ratio >= float(bound) if sign == ">=" else ratio <= float(bound)) else "missed"


def machine():
    """Describe the machine and the software, a dict of str and float."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        named = re.search(r"^model name\s*: (.*)$", cpuinfo.read_text(), re.MULTILINE)
        model = named[1].strip() if named else model
    elif sys.platform == "darwin":
        model = subprocess.check_output(["sysctl", "-n", "machdep.cpu.brand_string"], text=True).strip()
    allowed = getattr(os, "sched_getaffinity", None)
    versions = {
        name: metadata.version(name) for name in ("tensorflow", "keras", "numpy", "scikit-learn", "pillow", "skin-tl")
    }
    return {
        "processor": model,
        "cores": len(allowed(0)) if allowed else os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **versions,
    }


def load_average():
    """Return how many processes ran or waited in the last minute, on average."""
    return round(os.getloadavg()[0], 1)


def frame(rows, **more):
    """Return rows as a table with further columns, the same in all of them."""
    return pd.DataFrame([asdict(row) for row in rows], columns=COLUMNS).assign(**more)


def _number(value):
    return "" if pd.isna(value) else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def markdown(table):
    """Return the table of all benchmarks as Markdown, with a sentence on the machine and its load."""
    lines = [
        "| benchmark | case | ours | other | ratio (lowest–highest) | turns | aim | note |",
        "|---|---|--:|--:|--:|--:|---|---|",
    ]
    words = {name: table[name].astype(object).where(table[name].notna(), "") for name in ("case", "aim", "note")}
    for row in table.assign(**words).itertuples():
        measured = not pd.isna(row.ratio)
        spread = f"{_number(row.ratio)} ({_number(row.lowest)}–{_number(row.highest)})" if measured else ""
        aim = f"{row.aim.replace('>=', '≥').replace('<=', '≤')}: {outcome(row.ratio, row.aim)}" if row.aim else ""
        sides = [f"{_number(side)} {row.unit}" if not pd.isna(side) else "" for side in (row.ours, row.other)]
        if row.turns == 0:
            aim = "failed" if row.note.startswith("failed") else "skipped"
        cells = [row.benchmark, row.case, *sides, spread, str(row.turns or ""), aim, row.note]
        lines.append("| " + " | ".join(str(cell).replace("|", "/") for cell in cells) + " |")
    about = table.iloc[0]
    loads = table["load_average"]
    lines += [
        "",
        f"Measured on {about['processor']}, {about['cores']} cores, {about['memory_gb']:g} GB of memory, "
        f"{about['system']}; Python {about['python']}, TensorFlow {about['tensorflow']}, Keras {about['keras']}, "
        f"NumPy {about['numpy']}, scikit-learn {about['scikit-learn']}, Pillow {about['pillow']}; commit "
        f"{about['commit']}; load average before each benchmark {loads.min():g} to {loads.max():g}.",
    ]
    return "\n".join(lines) + "\n"


def weights_folder():
    """Return the folder of weights.

    Raises
    ------
    Skipped
        If ``SKIN_TL_WEIGHTS`` is not set.
    """
    folder = os.environ.get("SKIN_TL_WEIGHTS")
    if not folder:
        raise Skipped("needs SKIN_TL_WEIGHTS")
    return Path(folder)


def ham10000_folder():
    """Return the folder of HAM10000.

    Raises
    ------
    Skipped
        If ``SKIN_TL_HAM10000`` is not set.
    """
    folder = os.environ.get("SKIN_TL_HAM10000")
    if not folder:
        raise Skipped("needs SKIN_TL_HAM10000")
    return Path(folder)


TORCHVISION = {"ResNet50": "resnet50", "VGG16": "vgg16", "MobileNetV2": "mobilenet_v2"}


def torch_network(backbone, **how):
    """Return torch, and torchvision's network of that name with random weights, channels last.

    Raises
    ------
    Skipped
        If PyTorch is not installed or torchvision has no such network.
    """
    try:
        torch, torchvision = (importlib.import_module(name) for name in ("torch", "torchvision"))
    except ImportError:
        raise Skipped("needs torch and torchvision") from None
    if backbone not in TORCHVISION:
        raise Skipped(f"torchvision has no {backbone}")
    network = getattr(torchvision.models, TORCHVISION[backbone])(weights=None, **how)
    return torch, network.to(memory_format=torch.channels_last)


def compiled_or_plain(torch, run, module):
    """Return a module, compiled where `run(module)` then works, and a word on which it is."""
    try:
        compiled = torch.compile(module)
        run(compiled)
        return compiled, f"torch {torch.__version__}, compiled"
    except Exception as error:  # where no compiler is installed
        return module, f"torch {torch.__version__}, not compiled ({type(error).__name__})"


def noise_files(folder, n, shape=(150, 200), ending="jpg"):
    """Write images of smooth noise, (height, width) pixels; return their paths by image id."""
    import numpy as np
    from PIL import Image

    rng, files = np.random.default_rng(0), {}
    for number in range(n):
        files[f"{number:06d}"] = Path(folder, f"{number:06d}.{ending}")
        small = Image.fromarray(rng.integers(0, 256, (shape[0] // 10, shape[1] // 10, 3), np.uint8))
        small.resize(shape[::-1]).save(files[f"{number:06d}"], quality=95)
    return files
