"""Registry: the backbones of `keras.applications` that a study can name.

Takes nothing; gives `BACKBONES`, with all that the program knows of each network.  Add a backbone here, by one entry.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from skin_tl.errors import SkinTLError


@dataclass(frozen=True)
class Backbone:
    """A network of `keras.applications`: what its ImageNet weights expect, what it costs and how it is drawn.

    Attributes
    ----------
    module
        Module of `keras.applications`; its ``preprocess_input`` is the network's native preprocessing.
    transform : {'tf', 'caffe', 'torch', 'none'}
        What that function does: −1…1; BGR less the ImageNet mean; 0…1 standardised; nothing (the network scales
        by itself).  Two preprocessings with the same transform are the same computation.
    imagenet_size
        Side of the images that the weights were trained with, in pixels.
    last_block
        Prefixes of the names of the layers that are trained where a study unfreezes the last block alone: all layers
        from its first to the network's end.
    stages
        Layers that take the outputs of the two stages before the last one: there, ``features: all_stages`` pools too.
    smallest
        Side of the smallest images that the network takes, in pixels.
    gflops
        Floating-point operations (billions) of one forward pass at 224 px without the classifier, from the network's
        paper; a multiplication and an addition are two.  For the estimate of the time only.
    n_features
        Number of features of the last stage, for the estimate of the disk space only.
    efficiency
        Share of the speed of a matrix product that it reaches on a CPU, 0…1; depthwise convolutions wait for memory.
    style
        Colour and marker in figures; without them it gets one of those that `skin_tl.reporting.drawing` has left.
    """

    module: str
    transform: str
    imagenet_size: int
    last_block: tuple[str, ...]
    stages: tuple[str, ...] = ()
    smallest: int = 32
    gflops: float = 10.0
    n_features: int = 2048
    efficiency: float = 0.3
    style: tuple[str, str] | None = None


# To add a backbone of keras.applications, add one entry: its first line is needed, the second has defaults.
# The colours are Paul Tol's muted palette.
BACKBONES = {
    "VGG16": Backbone(
        "vgg16", "caffe", 224, ("block5",), ("block4_conv1", "block5_conv1"),
        gflops=31.0, n_features=512, efficiency=0.75, style=("#332288", "o"),
    ),
    "Xception": Backbone(
        "xception", "tf", 299, ("block14",), ("block4_sepconv1", "block13_sepconv1"),
        smallest=71, gflops=9.2, efficiency=0.6, style=("#117733", "s"),
    ),
    "ResNet50": Backbone(
        "resnet50", "caffe", 224, ("conv5",), ("conv4_block1_1_conv", "conv5_block1_1_conv"),
        gflops=7.7, efficiency=0.75, style=("#CC6677", "D"),
    ),
    "EfficientNetB7": Backbone(
        "efficientnet", "none", 600, ("block7", "top"), ("block4a_dwconv_pad", "block6a_dwconv_pad"),
        gflops=10.3, n_features=2560, style=("#88671A", "^"),
    ),
    "MobileNetV2": Backbone(
        "mobilenet_v2", "tf", 224, ("block_16", "Conv_1"), ("block_6_pad", "block_13_pad"),
        gflops=0.6, n_features=1280, style=("#882255", "v"),
    ),
    "ConvNeXtTiny": Backbone(
        "convnext", "none", 224, ("convnext_tiny_stage_3", "layer_normalization"),
        ("convnext_tiny_downsampling_block_1", "convnext_tiny_downsampling_block_2"),
        gflops=8.9, n_features=768, style=("#2E8BB0", "P"),
    ),
}  # fmt: skip


def transform_of(backbone: str, preprocessing: str) -> str:
    """Return the pixel transform that a preprocessing means for a backbone: ``unit`` is ``tf`` for all."""
    return "tf" if preprocessing == "unit" else BACKBONES[backbone].transform


def check_backbones(backbones: Iterable[str], image_size: int, features: str = "last") -> None:
    """Refuse images that are too small for one of some backbones, and features that its entry does not tell.

    Raises
    ------
    SkinTLError
    """
    for name in backbones:
        smallest = BACKBONES[name].smallest
        if image_size < smallest:
            raise SkinTLError(
                f"`image_size: {image_size}` is too small for {name}, which needs {smallest} pixels. Set a larger one, "
                f"or leave {name} out of `backbones`."
            )
        if features == "all_stages" and not BACKBONES[name].stages:
            raise SkinTLError(
                f"`features: all_stages` needs the stages of {name}, and its entry in skin_tl/registry.py has no "
                "`stages`. Name them there, or set `features: last`."
            )
