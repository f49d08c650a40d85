"""Study: the settings of one study, read from a YAML file and checked.

Takes ``studies/<name>.yaml`` and overrides (``--config key=value``); gives a frozen `Study` and the paths of
its files.  A wrong key or value ends in one `SkinTLError` that lists what is allowed.
"""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from skin_tl.errors import SkinTLError
from skin_tl.files import ROOT, write_json
from skin_tl.schema import BASELINES, ENSEMBLE, REPORTED, TUNED
from skin_tl.settings import OF_STRATEGIES, Settings, as_list

MORE_PENALTIES = 3
"""Decades beyond a study's `l2` that are tried on either side while the penalty at the edge does best."""

SMOOTHED = 5
"""Epochs over which macro F1 of the validation subset is averaged before it chooses."""


def passes_of(fraction: float) -> int:
    """Return the number of passes over the training images in one epoch of a whole network, by share of the lesions.

    Shown once, a small part makes few steps, and a learning curve would show what few steps cost as if it were what few
    lesions cost; with as many steps as the whole, each part would take as long.  In between lies 1/√fraction, rounded:
    4 times at 5 %, twice at 25 %, once from 50 % on.

    Parameters
    ----------
    fraction
        Above 0, at most 1.

    Returns
    -------
    int
        At least 1.
    """
    return round(fraction**-0.5)


def penalties_beyond(l2: list[float]) -> tuple[list[float], list[float]]:
    """Return the penalties below and above those of a study, in factors of ten, that training may try too.

    Parameters
    ----------
    l2
        As a study lists them.

    Returns
    -------
    below, above
        `MORE_PENALTIES` each, the nearest first.  Empty where there is no choice (a single penalty), and below 0.
    """
    decades = range(1, MORE_PENALTIES + 1) if len(l2) > 1 else ()
    below = [float(f"{min(l2) / 10**decade:.12g}") for decade in decades if min(l2)]
    return below, [float(f"{max(l2) * 10**decade:.12g}") for decade in decades]


def own_training(study: Study) -> list[str]:
    """List the training keys that differ from their defaults and that the study's strategies use.

    Keys that say where a network is trained are left out.
    """
    fields, strategies = Study.model_fields, {*study.strategies}
    keys = [key for key, meant in OF_STRATEGIES.items() if key != "device" and strategies & {*meant}]
    return [key for key in keys if getattr(study, key) != fields[key].default]


class Study(Settings):
    """One study: its settings, and what follows from them."""

    @property
    def pseudo_runs(self) -> list[tuple[str, str]]:
        """Runs without a network of their own, ensembles and baselines: list of (strategy, name)."""
        ensembles = [(strategy, ENSEMBLE) for strategy in self.strategies] if len(self.backbones) > 1 else []
        return ensembles + [("baseline", name) for name in BASELINES]

    @property
    def report_files(self) -> list[str]:
        """Files that the report writes besides `EVALUATED`, list of str."""
        tuned = any(strategy in TUNED for strategy in self.strategies)
        curves = len(self.strategies) > 1 or len(self.train_fractions) > 1
        more = ["endings.csv", "rates.csv"] if tuned else []
        more += ["learning_curves.csv", "lesions_needed.csv", "costs.csv"] if curves else []
        return [*REPORTED, *more, "facts.json"]

    @property
    def synthetic(self) -> bool:
        """Whether the images are synthetic."""
        return self.dataset == "synthetic"

    @property
    def releases(self) -> tuple[str, ...]:
        """Data releases that the study needs, each named by ``SKIN_TL_<name>`` or downloaded: tuple of str."""
        return (*([] if self.synthetic else ["HAM10000"]), *([self.external.upper()] if self.external else []))

    @property
    def transfers(self) -> bool:
        """Whether the study needs pretrained weights: all strategies but ``from_scratch`` do.

        One that a command line narrows keeps what its file needs, so that its other runs stay up to date.
        """
        return self.strategies != ["from_scratch"] or self.external is not None or "strategies" in self.overrides

    def rates(self, strategy: str) -> list[float]:
        """Return the learning rates that the validation set selects from for whole networks, list of float."""
        return getattr(self, f"{strategy}_rate")

    def run_folder(self, runs: str = "runs") -> Path:
        """Return the folder of the study's runs, below the project's root."""
        return ROOT / runs / self.name

    @property
    def control(self) -> str | None:
        """Scaling of the random-weight control; None in a study without one.

        Native if it is listed, as the conclusions rest on it: one more pass over the images for each backbone.
        """
        if not self.random_control or self.weights == "random" or "feature_extraction" not in self.strategies:
            return None
        return "native" if "native" in self.preprocessings else self.preprocessings[0]

    def data_settings(self) -> dict[str, Any]:
        """Return what metadata and decoded images depend on, as a dict (the reason to read the data set again)."""
        return {key: getattr(self, key) for key in ("dataset", "image_size", "group_near_duplicates")}

    def split_settings(self) -> dict[str, Any]:
        """Return what the splits depend on besides the data, as a dict (the reason to draw them again)."""
        keys = ("split_policies", "seeds", "leakage", "other_splits")
        settings = {key: getattr(self, key) for key in keys}
        # The splits of experiments name the scaling under which they are used.
        return settings | ({"preprocessings": self.preprocessings} if self.leakage or self.other_splits else {})

    def n_views(self, strategy: str) -> int:
        """Return over how many flips and rotations of an image the models of a strategy average their probabilities."""
        if strategy in TUNED:
            return 8 if self.test_time_augmentation else 1
        return self.views

    def training_settings(self, strategy: str = "feature_extraction") -> dict[str, Any]:
        """Return what a training run depends on besides its data, as a dict (the reason to train again)."""
        keys = ["split_policies", "preprocessings", "seeds"]
        if strategy == "feature_extraction":
            keys += ["leakage", "other_splits", "control"]
        keys += [key for key, meant in OF_STRATEGIES.items() if strategy in meant and key != "device"]
        if self.train_fractions != [1.0]:  # a study without learning curves is not trained again for their sake
            keys.append("train_fractions")
        return {key: getattr(self, key) for key in keys}


def study_path(name_or_path: str | Path) -> Path:
    """Return the YAML (or JSON) file of a study named by its name or its path.

    Raises
    ------
    SkinTLError
        If there is none; the message lists the studies that there are.
    """
    path = Path(name_or_path)
    candidates = [path, ROOT / path, ROOT / "studies" / f"{name_or_path}.yaml"]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    known = sorted(file.stem for file in (ROOT / "studies").glob("*.yaml"))
    near = difflib.get_close_matches(path.stem, known, n=1)
    raise SkinTLError(
        f"No study named {str(name_or_path)!r}, and no such file.{f' Did you mean {near[0]!r}?' if near else ''} Give "
        f"one of {', '.join(known)}, or the path of a study's YAML file. `./run_all.sh --help` lists the commands."
    )


def command_of(name: str) -> str:
    """Return the command that runs the study of a name, for messages; a study kept elsewhere is named by its file."""
    known = (ROOT / "studies" / f"{name}.yaml").is_file()
    return f"./run_all.sh {name}" if known else f"./run_all.sh /path/to/{name}.yaml"


def backbones_left_out(study: Study) -> list[str]:
    """Return the backbones that a study's own file lists and this run left out; none for a study kept elsewhere."""
    known = (ROOT / "studies" / f"{study.name}.yaml").is_file()
    return [name for name in load_study(study.name).backbones if name not in study.backbones] if known else []


class _Loader(yaml.BaseLoader):
    """YAML loader that keeps each value as text; `Study` converts it to the type of its key.

    PyYAML's own types are those of YAML 1.1, where ``010`` is 8, ``1:30`` is 90, and the title ``007`` loses its zeros.
    A key that is given twice, of which only the last would count, is refused.
    """

    def construct_mapping(self, node, deep=False):
        first: dict[tuple[str, str], yaml.Mark] = {}
        for key, _ in node.value:
            mark = first.setdefault((key.tag, str(key.value)), key.start_mark)
            if mark is not key.start_mark:
                problem = f"the key `{key.value}` is given already in line {mark.line + 1}. Leave one of them out."
                raise yaml.constructor.ConstructorError(problem=problem, problem_mark=key.start_mark)
        return super().construct_mapping(node, deep)


def load_study(name_or_path: str | Path, overrides: dict[str, Any] | None = None) -> Study:
    """Read and check a study.

    Parameters
    ----------
    name_or_path
        A name below ``studies/``, or a YAML or JSON file.
    overrides
        Values that replace the study's own, checked alike; lists may be given as ``"A,B"``.

    Raises
    ------
    SkinTLError
        If the file is absent or no YAML, a key or value is not allowed, or a study below ``studies/`` has its name.
    """
    path = study_path(name_or_path)
    try:
        text = path.read_text(encoding="utf-8")
        settings = json.loads(text) if path.suffix == ".json" else yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError) as error:
        problem, file_format = str(error), "JSON" if path.suffix == ".json" else "YAML"
        if isinstance(error, yaml.MarkedYAMLError) and (mark := error.problem_mark):
            problem = f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
        raise SkinTLError(
            f"{path} is not valid {file_format}: {' '.join(problem.split()).rstrip('.')}. Correct the file."
        ) from None
    if not isinstance(settings, dict):
        raise SkinTLError(f"{path} holds no `key: value` lines. Write it as studies/demo.yaml is.")
    study = check_study(settings, overrides, path)
    namesake = ROOT / "studies" / f"{study.name}.yaml"
    if path.suffix != ".json" and namesake.is_file() and not namesake.samefile(path):
        raise SkinTLError(
            f"{path}: key `name`: {study.name!r} is the name of {namesake}, and a study's results lie under its name. "
            "Give this one another name."
        )
    return study


def check_study(settings: dict[str, Any], overrides: dict[str, Any] | None = None, source: object = "study") -> Study:
    """Check settings (a dict) and overrides as `load_study` does; `source` is named in errors."""
    overrides = dict(overrides or {})
    try:
        study = Study(**{**_with_an_effect(settings, overrides), **overrides})
    except ValidationError as error:
        problems = dict.fromkeys(_explain(item, overrides) for item in error.errors())
        raise SkinTLError(f"{source}: {'; '.join(problems)}. Correct this; docs/studies.md lists all keys.") from None
    try:
        plain = Study(**settings)
    except ValidationError:
        plain = None
    changed = [key for key in overrides if plain is None or getattr(plain, key) != getattr(study, key)]
    return study.model_copy(update={"overrides": sorted({*study.overrides, *changed})})


def _with_an_effect(settings, overrides):
    """Drop the settings of strategies that an override removes."""
    if "strategies" not in overrides:
        return settings
    left = {*as_list(overrides["strategies"])}
    if not left:
        return settings
    return {key: value for key, value in settings.items() if left & {*OF_STRATEGIES.get(key, left)}}


# What keys expect, where the words of the library that checks them would be a pattern, or several messages.
_EXPECTED = {"seeds": "expected whole numbers from 0 and below 4294967296, as in 1,2,3"}


def _explain(item, overrides):
    """Describe one pydantic error: the key, the given value and what is allowed."""
    key = str(item["loc"][0]) if item["loc"] else "study"
    where = f"`--config {key}=…`" if key in overrides else f"key `{key}`"
    if item["type"] == "extra_forbidden":
        parts = [name for name in Study.model_fields if name.endswith(f"_{key}")]
        near = parts or difflib.get_close_matches(key, Study.model_fields, n=1)
        return f"unknown {where}" + (f" (did you mean {' or '.join(f'`{name}`' for name in near)}?)" if near else "")
    if item["type"] == "missing":
        return f"{where} is missing"
    if item["type"] == "too_short":
        return f"{where}: list at least one (given: none)"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] != "value_error":
        message = _EXPECTED.get(key, message)
    return f"{where}: {message} (given: {item['input']!r})"


def save_study(study: Study, path: str | Path) -> None:
    """Write the effective study (with its overrides) as JSON; `load_study` reads it back."""
    write_json(path, study.model_dump())
