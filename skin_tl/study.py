"""A study: what is asked, read from a YAML file and checked.

Takes ``studies/<name>.yaml`` and overrides (``--config key=value``); gives a frozen `Study` and the paths of
its files.  A wrong key or value ends in one `SkinTLError` that lists what is allowed.
"""

import difflib
import json
import re
import unicodedata
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from skin_tl.errors import SkinTLError
from skin_tl.files import ROOT, write_json
from skin_tl.registry import BACKBONES
from skin_tl.schema import BASELINES, ENSEMBLE, REPORTED, STRATEGIES, TUNED

MORE_PENALTIES = 3
"""Decades beyond a study's `l2` that are tried on either side while the penalty at the edge does best."""

SMOOTHED = 5
"""Epochs over which macro F1 of the validation subset is averaged before it chooses."""


def passes_of(fraction):
    """Return how often an epoch shows each training image to a whole network that learns from a share of the lesions.

    Shown once, a small part makes few steps, and a learning curve would show what few steps cost as if it were what few
    lesions cost; with as many steps as the whole, each part would take as long.  In between lies 1/√fraction, rounded:
    4 times at 5 %, twice at 25 %, once from 50 % on.

    Parameters
    ----------
    fraction : float
        Above 0, at most 1.

    Returns
    -------
    int
        At least 1.
    """
    return round(fraction**-0.5)


def penalties_beyond(l2):
    """Return the penalties that may be tried beyond those that a study lists, by factors of ten.

    Parameters
    ----------
    l2 : list of float
        As a study lists them.

    Returns
    -------
    below, above : list of float
        `MORE_PENALTIES` each, the nearest first.  Empty where there is no choice (a single penalty), and below 0.
    """
    decades = range(1, MORE_PENALTIES + 1) if len(l2) > 1 else ()
    below = [float(f"{min(l2) / 10**decade:.12g}") for decade in decades if min(l2)]
    return below, [float(f"{max(l2) * 10**decade:.12g}") for decade in decades]


def _as_list(value):
    """Turn ``A,B``, ``[A, B]`` or a single value (as they come from a command line) into a list."""
    if isinstance(value, str):
        inner = value.strip().removeprefix("[").removesuffix("]")
        return [part.strip() for part in inner.split(",") if part.strip()]
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _in_digits(value):
    """Refuse text that pydantic would read as another number than it shows: ``1_2`` is no 12."""
    if isinstance(value, str) and not re.fullmatch(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", value):
        raise PydanticCustomError("digits", "expected a number in decimal digits, as in 12 or 0.5")
    return value


Whole = Annotated[int, BeforeValidator(_in_digits)]
Real = Annotated[float, BeforeValidator(_in_digits)]


def _or_none(value):
    return None if value in ("", "~", "null") else value


def _numbers(**bounds):
    one = Annotated[Real, Field(**bounds)]
    return Annotated[list[one], BeforeValidator(_as_list), Field(min_length=1, validate_default=True)]


def _names(allowed):
    return Annotated[list[Literal[allowed]], BeforeValidator(_as_list), Field(min_length=1)]


# Keys that some strategies alone look at, with these strategies.
_OF_STRATEGIES = {
    **dict.fromkeys(("l2", "max_epochs", "patience"), ("feature_extraction", "fine_tuning")),
    **dict.fromkeys(("unfreeze", "fine_tuning_rate", "backbone_share", "fine_tuning_epochs"), ("fine_tuning",)),
    **dict.fromkeys(("from_scratch_rate", "from_scratch_epochs"), ("from_scratch",)),
    **dict.fromkeys(("batch", "warmup_epochs", "tuning_patience", "weight_decay", "label_smoothing"), TUNED),
    **dict.fromkeys(("clip_norm", "ema_epochs", "imbalance", "augment", "test_time_augmentation"), TUNED),
    **dict.fromkeys(("precision", "deterministic", "device"), TUNED),
}

# Lists of learning rates to choose from, by strategy.
_RATES = tuple(f"{strategy}_rate" for strategy in TUNED)


def own_training(settings):
    """List the keys of training that a study sets to something else than their defaults and its strategies look at.

    Parameters
    ----------
    settings : dict
        As ``study.json`` has them.

    Returns
    -------
    list of str
        Without those that say where a network is trained.
    """
    fields, strategies = Study.model_fields, {*settings["strategies"]}
    keys = [key for key, meant in _OF_STRATEGIES.items() if key != "device" and strategies & {*meant}]
    return [key for key in keys if settings.get(key, fields[key].default) != fields[key].default]


class Study(BaseModel):
    """One study, frozen.

    Attributes
    ----------
    name : str
        Names the folders ``runs/<name>`` and ``report/<name>``.
    title : str
        Heading of the report.
    dataset : {'synthetic', 'ham10000'}
    image_size : int
        Side of the square images that the backbones see, in pixels.
    backbones : list of str
        Names in `skin_tl.registry.BACKBONES`.
    strategies : list of {'feature_extraction', 'fine_tuning', 'from_scratch'}
    split_policies : list of {'lesion', 'image'}
        `lesion` keeps all images of a lesion on one side; `image` splits image by image, which leaks.
    preprocessings : list of {'native', 'unit'}
        `native` scales pixels as the weights were trained with; `unit` scales them to −1…1 for all.
    seeds : list of int
        One split and one head for each.
    train_fractions : list of float
        Shares (above 0, at most 1) of the training lesions, sorted, 1 among them: with each of those below 1, heads and
        networks are trained once more for a learning curve; of each diagnosis at least one lesion is kept.  All results
        but those curves rest on 1.  See `passes_of`.
    weights : {'imagenet', 'imagenet_or_random', 'random'}
    leakage : bool
        Whether heads are also trained with and without siblings of the test lesions, see `skin_tl.data.leakage`.
    other_splits : int
        How many further random splits are drawn and scored, to see how far a score moves between them.
    external : {'isic2018'}, optional
        A test set from elsewhere that every head predicts once it is trained, see `skin_tl.data.external`.
    random_control : bool
        Whether heads are also trained on features of the same backbones with random weights: the control of what
        ImageNet's weights add, see `control`.  Of `feature_extraction` alone.
    group_near_duplicates : bool
        Whether lesions of one diagnosis that have near-duplicate images count as one lesion, see
        `skin_tl.data.duplicates`.
    images : bool
        Whether report and slides show pictures of the data set; without them they may be shared whatever its licence.
    l2, max_epochs, patience
        How heads are trained: the penalties on the square of the weights, of which the validation subset chooses one
        for each head (where the smallest or largest does best, further ones are tried, see `penalties_beyond`); the
        largest number of epochs; and after how many without a better validation macro F1 a head stops.  The
        defaults were chosen with ResNet50 features, on images of HAM10000 outside of a test subset.
    unfreeze : {'all', 'last_block'}, optional
        Which part of the backbone learns in `fine_tuning`; all of it by default.
    fine_tuning_rate : list of float
        Highest learning rate in `fine_tuning`, the head's.  With several, a network is trained with each, and its
        validation subset chooses one.
    backbone_share : float
        The share of it that the backbone has.
    fine_tuning_epochs : int
    from_scratch_rate, from_scratch_epochs
        The same for `from_scratch`, where all layers learn at one rate; as many rates, so that the search is no wider
        for one strategy than for the other.
    batch : int
        Images per step of the two strategies that train whole networks, as are the following.
    warmup_epochs : float
        Epochs in which the learning rate rises from 0; from there a cosine takes it back to 0.
    tuning_patience : int
        As `patience`.
    weight_decay, label_smoothing, clip_norm : float
        Of AdamW (kernels alone), of the wanted probabilities, and the largest norm of all gradients together.
    ema_epochs : float
        Over about how many epochs weights are averaged for validation and prediction; 0 takes them as they are.
    imbalance : {'none', 'class_weights', 'balanced_sampling', 'focal', 'logit_adjusted'}
        What is done about rare diagnoses while a network learns.
    augment : bool
        Whether images are flipped, turned by right angles, scaled, shifted and recoloured a little while it learns.
    test_time_augmentation : bool
        Whether predictions are averaged over the eight flips and right-angle rotations of an image.
    precision : {'auto', 'float32', 'bfloat16'}
        What whole networks compute in while they learn; weights and predictions are float32 always.  'auto' is bfloat16
        on a GPU and float32 elsewhere.
    deterministic : bool
        Whether a GPU is held to operations that give the same bits each time, which are slower.
    device : {'auto', 'cpu', 'gpu'}
        Where whole networks are trained; with 'gpu' a study stops if there is none.
    overrides : list of str
        The keys that a command line changed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    title: str
    dataset: Literal["synthetic", "ham10000"]
    image_size: Whole = Field(224, ge=32, le=1024)
    backbones: Annotated[list[str], BeforeValidator(_as_list), Field(min_length=1)]
    strategies: _names(STRATEGIES) = ["feature_extraction"]
    split_policies: _names(("lesion", "image")) = ["lesion"]
    preprocessings: _names(("native", "unit")) = ["native"]
    seeds: Annotated[list[Annotated[Whole, Field(ge=0)]], BeforeValidator(_as_list), Field(min_length=1)]
    train_fractions: _numbers(gt=0, le=1) = [1.0]
    weights: Literal["imagenet", "imagenet_or_random", "random"] = "imagenet"
    leakage: bool = False
    other_splits: Whole = Field(0, ge=0, le=1000)
    random_control: bool = True
    group_near_duplicates: bool = True
    external: Annotated[Literal["isic2018"] | None, BeforeValidator(_or_none)] = None
    images: bool = True
    l2: _numbers(ge=0) = [1e-4, 1e-3, 1e-2]
    max_epochs: Whole = Field(300, ge=1)
    patience: Whole = Field(40, ge=1)
    unfreeze: Annotated[Literal["all", "last_block"] | None, BeforeValidator(_or_none)] = None
    fine_tuning_rate: _numbers(gt=0, le=1) = [1e-3]
    backbone_share: Real = Field(0.1, gt=0, le=1)
    fine_tuning_epochs: Whole = Field(30, ge=1)
    from_scratch_rate: _numbers(gt=0, le=1) = [1e-3]
    from_scratch_epochs: Whole = Field(100, ge=1)
    batch: Whole = Field(32, ge=1)
    warmup_epochs: Real = Field(1.0, ge=0, validate_default=True)
    tuning_patience: Whole = Field(10, ge=1)
    weight_decay: Real = Field(0.01, ge=0, lt=1)
    label_smoothing: Real = Field(0.0, ge=0, lt=1)
    clip_norm: Real = Field(1.0, gt=0)
    ema_epochs: Real = Field(1.0, ge=0)
    imbalance: Literal["none", "class_weights", "balanced_sampling", "focal", "logit_adjusted"] = "none"
    augment: bool = True
    test_time_augmentation: bool = False
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    deterministic: bool = False
    device: Literal["auto", "cpu", "gpu"] = "auto"
    overrides: list[str] = []

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
            raise ValueError("expected letters, digits, - and _ alone, as folders are named by it")
        if name in ("template", "text", "published", "interactive"):
            raise ValueError(f"the name {name!r} is reserved")
        return name

    @field_validator("title")
    @classmethod
    def _fits_on_a_line(cls, title):
        title = title.strip()
        if not title or any(unicodedata.category(one) in ("Cc", "Cs", "Zl", "Zp") for one in title):
            raise ValueError("expected one line of text")
        return title

    @field_validator("backbones", "strategies", "split_policies", "preprocessings", "seeds", "train_fractions", *_RATES)
    @classmethod
    def _no_repeats(cls, values):
        if len(set(values)) != len(values):
            raise ValueError("a value is listed twice")
        return values

    @field_validator("seeds")
    @classmethod
    def _fit_generators(cls, seeds):
        if max(seeds) >= 2**32:
            raise ValueError("expected whole numbers below 4294967296: random generators take no larger seed")
        return seeds

    @field_validator("backbones")
    @classmethod
    def _known_backbones(cls, names):
        for name in names:
            if name not in BACKBONES:
                known = {one.lower(): one for one in BACKBONES}
                near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
                hint = f", did you mean {known[near[0]]!r}?" if near else "."
                raise ValueError(f"unknown backbone {name!r}{hint} Known: {', '.join(BACKBONES)}")
        return names

    @field_validator("train_fractions")
    @classmethod
    def _all_among_them(cls, fractions):
        if 1.0 not in fractions:
            raise ValueError("must contain 1, all training lesions: the results rest on it, the others are beside it")
        return sorted(fractions)

    @field_validator("leakage", "other_splits")
    @classmethod
    def _experiments_train_heads(cls, value, info):
        if value and "feature_extraction" not in info.data.get("strategies", STRATEGIES):
            raise ValueError("this experiment trains heads on features: add feature_extraction to `strategies`")
        return value

    @field_validator(*_OF_STRATEGIES)
    @classmethod
    def _has_an_effect(cls, value, info):
        meant = _OF_STRATEGIES[info.field_name]
        if value != cls.model_fields[info.field_name].default and not {*meant} & {*info.data.get("strategies", meant)}:
            raise ValueError(f"has an effect on {' and '.join(meant)} alone: add one to `strategies`, or leave it out")
        return value

    @field_validator("from_scratch_rate")
    @classmethod
    def _as_many_as_the_other(cls, rates, info):
        other = info.data.get("fine_tuning_rate", rates)
        if {*TUNED} <= {*info.data.get("strategies", ())} and len(rates) != len(other):
            raise ValueError(
                f"must list as many rates as `fine_tuning_rate`, {len(other)}: both strategies get the same search"
            )
        return rates

    @field_validator("warmup_epochs")
    @classmethod
    def _leaves_epochs(cls, value, info):
        for strategy in info.data.get("strategies", ()):
            epochs = info.data.get(f"{strategy}_epochs", value + 1)
            if value >= epochs:
                raise ValueError(f"must be below `{strategy}_epochs`, {epochs}: nothing would be left after it")
        return value

    @property
    def pseudo_runs(self):
        """Runs without a network of their own, list of (strategy, name): ensembles of several backbones; baselines."""
        ensembles = [(strategy, ENSEMBLE) for strategy in self.strategies] if len(self.backbones) > 1 else []
        return ensembles + [("baseline", name) for name in BASELINES]

    @property
    def report_files(self):
        """Files that the report writes besides `EVALUATED`, list of str."""
        tuned = any(strategy in TUNED for strategy in self.strategies)
        curves = len(self.strategies) > 1 or len(self.train_fractions) > 1
        more = ["endings.csv", "rates.csv"] if tuned else []
        more += ["learning_curves.csv", "lesions_needed.csv", "costs.csv"] if curves else []
        return [*REPORTED, *more, "facts.json"]

    @property
    def synthetic(self):
        """Whether the images are drawn, not photographed."""
        return self.dataset == "synthetic"

    @property
    def releases(self):
        """Releases of photographs that it needs, each found by ``SKIN_TL_<name>`` or downloaded: tuple of str."""
        return (*([] if self.synthetic else ["HAM10000"]), *([self.external.upper()] if self.external else []))

    @property
    def transfers(self):
        """Whether it needs networks that learned from photographs: all but training from random weights does.

        One that a command line narrows keeps what its file needs, so that its other runs stay up to date.
        """
        return self.strategies != ["from_scratch"] or self.external is not None or "strategies" in self.overrides

    def rates(self, strategy):
        """Return the learning rates that a strategy which trains whole networks has to choose from, list of float."""
        return getattr(self, f"{strategy}_rate")

    def run_folder(self, runs="runs"):
        """Return the folder of the study's runs, below the project's root."""
        return ROOT / runs / self.name

    @property
    def control(self):
        """Scaling under which heads are trained on random weights beside the study's own; None without that control.

        Native if it is listed, as the conclusions rest on it: one more pass over the images for each backbone.
        """
        if not self.random_control or self.weights == "random" or "feature_extraction" not in self.strategies:
            return None
        return "native" if "native" in self.preprocessings else self.preprocessings[0]

    def data_settings(self):
        """Return what metadata and decoded images depend on, as a dict (the reason to read the data set again)."""
        return {key: getattr(self, key) for key in ("dataset", "image_size", "group_near_duplicates")}

    def split_settings(self):
        """Return what the splits depend on besides the data, as a dict (the reason to draw them again)."""
        keys = ("split_policies", "seeds", "leakage", "other_splits")
        settings = {key: getattr(self, key) for key in keys}
        # The splits of experiments name the scaling under which they are used.
        return settings | ({"preprocessings": self.preprocessings} if self.leakage or self.other_splits else {})

    def training_settings(self, strategy="feature_extraction"):
        """Return what a training run depends on besides its data, as a dict (the reason to train again)."""
        keys = ["split_policies", "preprocessings", "seeds"]
        if strategy == "feature_extraction":
            keys += ["leakage", "other_splits", "control"]
        keys += [key for key, meant in _OF_STRATEGIES.items() if strategy in meant and key != "device"]
        if self.train_fractions != [1.0]:  # a study without learning curves is not trained again for their sake
            keys.append("train_fractions")
        return {key: getattr(self, key) for key in keys}


def study_path(name_or_path):
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
    known = ", ".join(sorted(file.stem for file in (ROOT / "studies").glob("*.yaml")))
    raise SkinTLError(
        f"No study named {name_or_path!r}. Give one of {known}, or the path of a "
        "study's YAML file. `./run_all.sh --help` lists the commands."
    )


def command_of(name):
    """Return the command that runs the study of a name, for messages; a study kept elsewhere is named by its file."""
    known = (ROOT / "studies" / f"{name}.yaml").is_file()
    return f"./run_all.sh {name}" if known else f"./run_all.sh /path/to/{name}.yaml"


class _Loader(yaml.BaseLoader):
    """Reads the values of YAML as the text that stands there, which `Study` turns into what each key takes.

    PyYAML's own types are those of YAML 1.1, where ``010`` is 8, ``1:30`` is 90, and the title ``007`` loses its zeros.
    A key that is given twice, of which only the last would count, is refused.
    """

    def construct_mapping(self, node, deep=False):
        first = {}
        for key, _ in node.value:
            mark = first.setdefault((key.tag, str(key.value)), key.start_mark)
            if mark is not key.start_mark:
                problem = f"the key `{key.value}` is given already in line {mark.line + 1}. Leave one of them out."
                raise yaml.constructor.ConstructorError(problem=problem, problem_mark=key.start_mark)
        return super().construct_mapping(node, deep)


def _read_json(text):
    """Read JSON, and refuse as `_Loader` does a key that is given twice."""

    def each_once(pairs):
        keys = [key for key, _ in pairs]
        for key in keys:
            if keys.count(key) > 1:
                raise ValueError(f"the key `{key}` is given twice. Leave one of them out.")
        return dict(pairs)

    return json.loads(text, object_pairs_hook=each_once)


def load_study(name_or_path, overrides=None):
    """Read and check a study.

    Parameters
    ----------
    name_or_path : str or pathlib.Path
        A name below ``studies/``, or a YAML or JSON file.
    overrides : dict, optional
        Values that replace the study's own, checked alike; lists may be given as ``"A,B"``.

    Returns
    -------
    Study

    Raises
    ------
    SkinTLError
        If the file is absent or no YAML, a key or value is not allowed, or a study below ``studies/`` has its name.
    """
    path = study_path(name_or_path)
    try:
        text = path.read_text(encoding="utf-8")
        settings = _read_json(text) if path.suffix == ".json" else yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError) as error:
        mark, told = getattr(error, "problem_mark", None), str(error)
        if mark is not None:
            told = f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
        kind = "JSON" if path.suffix == ".json" else "YAML"
        raise SkinTLError(f"{path} is not valid {kind}: {' '.join(told.split())}") from None
    if not isinstance(settings, dict):
        raise SkinTLError(f"{path} must hold `key: value` lines, as studies/demo.yaml does.")
    study = check_study(settings, overrides, path)
    namesake = ROOT / "studies" / f"{study.name}.yaml"
    if path.suffix != ".json" and namesake.is_file() and not namesake.samefile(path):
        raise SkinTLError(
            f"{path}: key `name`: {study.name!r} is the name of {namesake}, and a study's results lie under its name. "
            "Give this one another name."
        )
    return study


def check_study(settings, overrides=None, source="study"):
    """Check settings (a dict) and overrides as `load_study` does; `source` is named in errors."""
    overrides = dict(overrides or {})
    try:
        study = Study(**{**_with_an_effect(settings, overrides), **overrides})
    except ValidationError as error:
        problems = dict.fromkeys(_explain(item, overrides) for item in error.errors())
        raise SkinTLError(f"{source}: {'; '.join(problems)}") from None
    try:
        plain = Study(**settings)
    except ValidationError:
        plain = None
    changed = [key for key in overrides if plain is None or getattr(plain, key) != getattr(study, key)]
    return study.model_copy(update={"overrides": sorted({*study.overrides, *changed})})


def _with_an_effect(settings, overrides):
    """Leave out of a file's settings what belongs to strategies that an override took away."""
    if "strategies" not in overrides:
        return settings
    left = {*_as_list(overrides["strategies"])}
    if not left:
        return settings
    return {key: value for key, value in settings.items() if left & {*_OF_STRATEGIES.get(key, left)}}


# What keys expect, where the words of the library that checks them would be a pattern, or several messages.
_EXPECTED = {
    "seeds": "expected whole numbers from 0, as in 1,2,3",
}


def _explain(item, overrides):
    """Turn one pydantic error into a phrase: which key, what was given, what is allowed."""
    key = str(item["loc"][0]) if item["loc"] else "study"
    where = f"`--config {key}=…`" if key in overrides else f"key `{key}`"
    if item["type"] == "extra_forbidden":
        parts = [name for name in Study.model_fields if name.endswith(f"_{key}")]
        near = parts or difflib.get_close_matches(key, Study.model_fields, n=1)
        hint = f", did you mean {' or '.join(f'`{name}`' for name in near)}?" if near else "."
        return f"unknown {where}{hint} Known: {', '.join(key for key in Study.model_fields if key != 'overrides')}"
    if item["type"] == "missing":
        return f"{where} is missing"
    if item["type"] == "too_short":
        return f"{where}: list at least one (given: none)"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] != "value_error":
        message = _EXPECTED.get(key, message)
    return f"{where}: {message} (given: {item['input']!r})"


def save_study(study, path):
    """Write the effective study (with its overrides) as JSON; `load_study` reads it back."""
    write_json(path, study.model_dump())
