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
    """Refuse text that pydantic would read as another number than it shows: ``1_2`` is no 12."""
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
    "features": ("feature_extraction",),
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
    image_size
        Side of the square images that the backbones see, in pixels.
    backbones
        Names in `skin_tl.registry.BACKBONES`.
    split_policies
        `lesion` keeps all images of a lesion on one side; `image` splits image by image, which leaks.
    preprocessings
        `native` scales pixels as the weights were trained with; `unit` scales them to −1…1 for all.
    seeds
        One split and one head for each.
    features
        What the heads of `feature_extraction` get: the pooled outputs of a backbone's last stage, as in the
        presentation, or of its last three, see `skin_tl.models.backbones.build_backbone`.
    train_fractions
        Shares (above 0, at most 1) of the training lesions, sorted, 1 among them: with each of those below 1, heads and
        networks are trained once more for a learning curve; of each diagnosis at least one lesion is kept.  All results
        but those curves rest on 1.  See `passes_of`.
    leakage
        Whether heads are also trained with and without siblings of the test lesions, see `skin_tl.data.leakage`.
    other_splits
        How many further random splits are drawn and scored, to see how far a score moves between them.
    external
        A test set from elsewhere that every head predicts once it is trained, see `skin_tl.data.external`.
    random_control
        Whether heads are also trained on features of the same backbones with random weights: the control of what
        ImageNet's weights add, see `control`.  Of `feature_extraction` alone.
    group_near_duplicates
        Whether lesions of one diagnosis that have near-duplicate images count as one lesion, see
        `skin_tl.data.duplicates`.
    images
        Whether report and slides show pictures of the data set; without them they may be shared whatever its licence.
    l2, max_epochs, patience
        How heads are trained: the penalties on the square of the weights, of which the validation subset chooses one
        for each head (where the smallest or largest does best, further ones are tried, see `penalties_beyond`); the
        largest number of epochs; and after how many without a better validation macro F1 a head stops.  The
        defaults were chosen with ResNet50 features, on images of HAM10000 outside of a test subset.
    unfreeze
        Which part of the backbone learns in `fine_tuning`; all of it by default.
    fine_tuning_rate
        Highest learning rate in `fine_tuning`, the head's.  With several, a network is trained with each, and its
        validation subset chooses one.
    backbone_share
        The share of it that the backbone has.
    from_scratch_rate, from_scratch_epochs
        The same for `from_scratch`, where all layers learn at one rate; as many rates, so that the search is no wider
        for one strategy than for the other.
    batch
        Images per step of the two strategies that train whole networks, as are the following.
    warmup_epochs
        Epochs in which the learning rate rises from 0; from there a cosine takes it back to 0.
    tuning_patience
        As `patience`.
    weight_decay, label_smoothing, clip_norm
        Of AdamW (kernels alone), of the wanted probabilities, and the largest norm of all gradients together.
    ema_epochs
        Over about how many epochs weights are averaged for validation and prediction; 0 takes them as they are.
    imbalance
        What is done about rare diagnoses while a network learns.
    augment
        Whether images are flipped, turned by right angles, scaled, shifted and recoloured a little while it learns.
    test_time_augmentation
        Whether predictions are averaged over the eight flips and right-angle rotations of an image.
    precision
        What whole networks compute in while they learn; weights and predictions are float32 always.  'auto' is bfloat16
        on a GPU and float32 elsewhere.
    deterministic
        Whether a GPU is held to operations that give the same bits each time, which are slower.
    device
        Where whole networks are trained; with 'gpu' a study stops if there is none.
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
    seeds: Listed[Annotated[Whole, Field(ge=0)]]
    train_fractions: Listed[Rate] = [1.0]
    weights: Literal["imagenet", "imagenet_or_random", "random"] = "imagenet"
    leakage: bool = False
    other_splits: Whole = Field(0, ge=0, le=1000)
    random_control: bool = True
    group_near_duplicates: bool = True
    external: Annotated[Literal["isic2018"] | None, BeforeValidator(_or_none)] = None
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
