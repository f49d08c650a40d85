"""Settings: the keys that a study's file may have, their defaults, and the checks of their values.

Takes values as YAML, JSON or a command line give them; gives `Settings`, which `skin_tl.study.Study` extends.
"""

import difflib
import re
import unicodedata
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from skin_tl.registry import BACKBONES
from skin_tl.schema import STRATEGIES, TUNED, Features, Strategy


def as_list(value: Any) -> list:
    """Turn ``A,B``, ``[A, B]`` or a single value (as they come from a command line) into a list."""
    if isinstance(value, str):
        inner = value.strip().removeprefix("[").removesuffix("]")
        return [part.strip() for part in inner.split(",") if part.strip()]
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _in_digits(value):
    """Refuse numbers that are not written in decimal digits, such as ``1_2``, which pydantic would read as 12."""
    if isinstance(value, str) and not re.fullmatch(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", value):
        raise PydanticCustomError("digits", "expected a number in decimal digits, as in 12 or 0.5")
    return value


Whole = Annotated[int, BeforeValidator(_in_digits)]
Real = Annotated[float, BeforeValidator(_in_digits)]


def _or_none(value):
    return None if value in ("", "~", "null") else value


T = TypeVar("T")
Listed = Annotated[list[T], BeforeValidator(as_list), Field(min_length=1, validate_default=True)]
Rate = Annotated[Real, Field(gt=0, le=1)]

# Keys that some strategies alone look at, with these strategies.
OF_STRATEGIES = {
    **dict.fromkeys(("features", "views"), ("feature_extraction",)),
    **dict.fromkeys(("l2", "max_epochs", "patience"), ("feature_extraction", "fine_tuning")),
    **dict.fromkeys(("unfreeze", "fine_tuning_rate", "backbone_share", "fine_tuning_epochs"), ("fine_tuning",)),
    **dict.fromkeys(("from_scratch_rate", "from_scratch_epochs"), ("from_scratch",)),
    **dict.fromkeys(("batch", "warmup_epochs", "tuning_patience", "weight_decay", "label_smoothing"), TUNED),
    **dict.fromkeys(("clip_norm", "ema_epochs", "imbalance", "augment", "test_time_augmentation"), TUNED),
    **dict.fromkeys(("precision", "deterministic", "device"), TUNED),
}

# Lists of learning rates to choose from, by strategy.
_RATES = tuple(f"{strategy}_rate" for strategy in TUNED)


class Settings(BaseModel):
    """What a study's file may set, frozen.

    Attributes
    ----------
    name
        Names the folders ``runs/<name>`` and ``report/<name>``.
    title
        Heading of the report.
    dataset
        `synthetic` draws images; `ham10000` is found by `SKIN_TL_HAM10000` or downloaded.
    image_size
        Side of the square images, in pixels.
    backbones
        Names of entries of `BACKBONES` in `skin_tl/registry.py`.
    strategies
        `feature_extraction` trains heads on frozen backbones; `fine_tuning` then trains the backbone too;
        `from_scratch` trains whole networks from random weights.
    split_policies
        `lesion` keeps all images of a lesion on one side; `image` splits image by image, which leaks.
    preprocessings
        `native` scales pixels as the weights were trained with; `unit` scales them to −1…1 for all.
    features
        What the heads of `feature_extraction` get: the pooled outputs of a backbone's `last` stage, as in the
        presentation, or of its last three (`all_stages`).
    views
        How many views of each image the heads of `feature_extraction` learn from: the image (1), its mirror image too
        (2), half turns of both too (4), quarter turns too (8). A prediction is the mean over them. Each takes a pass.
    seeds
        Their numbers, not how many: one split and one training for each.
    train_fractions
        Shares of the training lesions (above 0, at most 1; 1 among them). Those below 1 train once more, for learning
        curves; at least one lesion of each diagnosis stays. Results rest on 1.
    weights
        `imagenet` stops where there are none; `imagenet_or_random` takes random ones for all backbones then.
    leakage
        Whether heads are also trained with and without other images of the test lesions in training.
    other_splits
        Number of further random splits that are scored, to see how far a score varies between splits.
    random_control
        Whether heads are also trained on the same backbones with random weights: the control of what ImageNet weights
        add. For `feature_extraction`.
    group_near_duplicates
        Whether lesions of one diagnosis with near-duplicate images count as one lesion.
    external
        An external test set, `isic2018`, that every trained model predicts.
    robustness
        Whether finished networks also predict corrupted test images, and such without the lesion, without its
        surroundings or with artefacts drawn on. Each network predicts fewer images for it than the data set has.
    images
        Whether report and slides show pictures of the data set. Without them they may be shared.
    l2
        Penalties on the squared weights of a head. The validation set selects one; where the smallest or the largest is
        best, further ones are tried, by factors of ten.
    max_epochs
        Largest number of epochs of a head.
    patience
        Epochs without a higher macro F1 on the validation set after which the training of a head stops.
    unfreeze
        Which part of the backbone `fine_tuning` trains: `all` (as without a value) or `last_block`.
    fine_tuning_rate
        Highest learning rate of the head in `fine_tuning`. Of several, the validation set selects one.
    backbone_share
        Learning rate of the backbone, as a share of the head's.
    fine_tuning_epochs
        Largest number of epochs of `fine_tuning`.
    from_scratch_rate
        Highest learning rate of `from_scratch`; as many as in `fine_tuning_rate`, so that the search is equally wide.
    from_scratch_epochs
        Largest number of epochs of `from_scratch`.
    batch
        Images per step, where whole networks are trained.
    warmup_epochs
        Epochs in which the learning rate rises from 0; a cosine takes it back to 0.
    tuning_patience
        As `patience`, for whole networks.
    weight_decay
        Weight decay of AdamW, for kernels only.
    label_smoothing
        Label smoothing in the loss of whole networks.
    clip_norm
        Gradient clipping: the largest global norm.
    ema_epochs
        Epochs over which weights are averaged for validation and prediction; 0 averages none.
    imbalance
        What the training of whole networks does about rare diagnoses: `none`, `class_weights`, `balanced_sampling`,
        `focal` or `logit_adjusted`.
    augment
        Whether training images of whole networks are flipped, rotated by right angles, scaled, shifted and recoloured.
    test_time_augmentation
        Whether whole networks predict the mean over the eight flips and right-angle rotations of an image.
    precision
        Number format of the training of whole networks: `float32`, `bfloat16`, or `auto`, bfloat16 on a GPU. Weights
        and predictions are float32.
    deterministic
        Whether a GPU uses only operations that give the same bits each time, which are slower.
    device
        Where whole networks are trained: `auto`, `cpu` or `gpu`; with `gpu`, a study stops if there is none.
    overrides
        The keys that a command line changed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    title: str
    dataset: Literal["synthetic", "ham10000"]
    image_size: Whole = Field(224, ge=32, le=1024)
    backbones: Listed[str]
    strategies: Listed[Strategy] = ["feature_extraction"]
    split_policies: Listed[Literal["lesion", "image"]] = ["lesion"]
    preprocessings: Listed[Literal["native", "unit"]] = ["native"]
    features: Features = "last"
    views: Whole = 1
    seeds: Listed[Annotated[Whole, Field(ge=0, lt=2**32)]]
    train_fractions: Listed[Rate] = [1.0]
    weights: Literal["imagenet", "imagenet_or_random", "random"] = "imagenet"
    leakage: bool = False
    other_splits: Whole = Field(0, ge=0, le=1000)
    random_control: bool = True
    group_near_duplicates: bool = True
    external: Annotated[Literal["isic2018"] | None, BeforeValidator(_or_none)] = None
    robustness: bool = False
    images: bool = True
    l2: Listed[Annotated[Real, Field(ge=0)]] = [1e-4, 1e-3, 1e-2]
    max_epochs: Whole = Field(300, ge=1)
    patience: Whole = Field(40, ge=1)
    unfreeze: Annotated[Literal["all", "last_block"] | None, BeforeValidator(_or_none)] = None
    fine_tuning_rate: Listed[Rate] = [1e-3]
    backbone_share: Real = Field(0.1, gt=0, le=1)
    fine_tuning_epochs: Whole = Field(30, ge=1)
    from_scratch_rate: Listed[Rate] = [1e-3]
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

    @field_validator("backbones")
    @classmethod
    def _known_backbones(cls, names):
        for name in names:
            if name not in BACKBONES:
                known = {one.lower(): one for one in BACKBONES}
                near = difflib.get_close_matches(name.lower(), known, n=1)
                hint = f", did you mean {known[near[0]]!r}?" if near else "."
                known_ones = f"Known: {', '.join(BACKBONES)}; docs/studies.md#add-a-backbone says how to add one"
                raise ValueError(f"unknown backbone {name!r}{hint} {known_ones}")
        return names

    @field_validator("views")
    @classmethod
    def _a_group(cls, views):
        if views not in (1, 2, 4, 8):
            raise ValueError("expected 1, 2, 4 or 8")
        return views

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

    @field_validator(*OF_STRATEGIES)
    @classmethod
    def _has_an_effect(cls, value, info):
        meant = OF_STRATEGIES[info.field_name]
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
