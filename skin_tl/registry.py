"""Registry: the backbones of `keras.applications` that a study can name.

Takes nothing; gives `BACKBONES`, with what each network's ImageNet weights expect.  Add a backbone here, by one line.
"""

from dataclasses import dataclass

from skin_tl.errors import SkinTLError


@dataclass(frozen=True)
class Backbone:
    """Where a network of `keras.applications` lives and what its ImageNet weights expect.

    Attributes
    ----------
    module : str
        Module of `keras.applications`; its ``preprocess_input`` is the network's native preprocessing.
    transform : {'tf', 'caffe', 'torch', 'none'}
        What that function does: −1…1; BGR less the ImageNet mean; 0…1 standardised; nothing (the network scales
        by itself).  Two preprocessings with the same transform are the same computation.
    imagenet_size : int
        Side of the images that the weights were trained with, in pixels.
    last_block : tuple of str
        How the names of the layers begin that learn where a study unfreezes the last block alone: all from its first to
        the network's end.
    smallest : int
        Side of the smallest images that its layers leave something of, in pixels.
    """

    module: str
    transform: str
    imagenet_size: int
    last_block: tuple[str, ...]
    smallest: int = 32


# To add a backbone of keras.applications, add one line.
BACKBONES = {
    "VGG16": Backbone("vgg16", "caffe", 224, ("block5",)),
    "Xception": Backbone("xception", "tf", 299, ("block14",), smallest=71),
    "ResNet50": Backbone("resnet50", "caffe", 224, ("conv5",)),
    "EfficientNetB7": Backbone("efficientnet", "none", 600, ("block7", "top")),
    "MobileNetV2": Backbone("mobilenet_v2", "tf", 224, ("block_16", "Conv_1")),
    "ConvNeXtTiny": Backbone("convnext", "none", 224, ("convnext_tiny_stage_3", "layer_normalization")),
}


def transform_of(backbone, preprocessing):
    """Return the pixel transform that a preprocessing means for a backbone: ``unit`` is ``tf`` for all."""
    return "tf" if preprocessing == "unit" else BACKBONES[backbone].transform


def check_image_size(backbones, image_size):
    """Refuse images that are too small for one of some backbones.

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
