"""How alike the features of changed copies are, and those of different lesions: where `NEAR_DUPLICATE` comes from.

    SKIN_TL_HAM10000=FOLDER SKIN_TL_WEIGHTS=FOLDER python tests/benchmarks/near_duplicates.py [--backbone MobileNetV2]
        [--images 10015] [--copies 1000]

Prints for each threshold of the rule of `skin_tl.external.near_duplicates` how many images pass as near-duplicates of
one of another lesion, how many of these share its diagnosis, and its age, sex and body site too, and which share of
changed copies passes as near-duplicates of their own lesion.  The last column is a bound on similarity alone.
"""

import argparse
import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance
from sklearn.preprocessing import StandardScaler, normalize

sys.path[:0] = [str(Path(__file__).parent.parent.parent)]

from skin_tl.backbones import build_backbone, resolve_weights  # noqa: E402
from skin_tl.dataset import find_release, read_folder  # noqa: E402
from skin_tl.external import NEAR_DUPLICATE  # noqa: E402
from skin_tl.features import extract  # noqa: E402
from skin_tl.images import decode  # noqa: E402

SIZE = 224
RATIOS = sorted({0.5, 0.55, 0.6, 0.65, 0.7, NEAR_DUPLICATE})
SIMILARITY = 0.8
BICUBIC = Image.Resampling.BICUBIC


def compressed(image, quality):
    """Return the image as it comes back from a JPEG file."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("RGB")


def resized(image):
    """Reduce to nine tenths and enlarge again."""
    return image.resize([round(0.9 * side) for side in image.size], BICUBIC).resize(image.size, BICUBIC)


def cropped(image):
    """Cut off 1 % at each side."""
    x, y = (round(0.01 * side) for side in image.size)
    return image.crop((x, y, image.size[0] - x, image.size[1] - y))


def brighter(image):
    """Brighten by 5 %."""
    return ImageEnhance.Brightness(image).enhance(1.05)


CHANGES = {
    "JPEG quality 60": lambda image: compressed(image, 60),
    "resized by 0.9": lambda image: compressed(resized(image), 90),
    "cropped by 2 %": lambda image: compressed(cropped(image), 90),
    "brighter by 5 %": lambda image: compressed(brighter(image), 90),
    "all four": lambda image: compressed(brighter(cropped(resized(image))), 60),
}


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--backbone", default="MobileNetV2")
    parser.add_argument("--images", type=int, default=10015)
    parser.add_argument("--copies", type=int, default=1000)
    options = parser.parse_args()
    data = read_folder(*find_release("HAM10000"))
    table = data.metadata.sample(options.images, random_state=0).sort_values("image_id", ignore_index=True)
    weights = resolve_weights([options.backbone], "imagenet")["backbones"][options.backbone]
    model = build_backbone(options.backbone, "native", SIZE, weights)
    images = decode({image_id: data.files[image_id] for image_id in table["image_id"]}, SIZE)
    features = extract(images, options.backbone, "native", model)[0]
    scaler, lesions = StandardScaler().fit(features), table["lesion_id"].factorize()[0]
    directions = normalize(scaler.transform(features))

    def compare(copies, own=None):
        """Return the nearest row, similarity to it, and the share of its distance in that to any other lesion's."""
        cosines = copies @ directions.T
        if own is not None:
            cosines[lesions[own][:, None] == lesions] = -1
        rows = cosines.argmax(axis=1)
        similarity = cosines[np.arange(len(rows)), rows]
        cosines[lesions[rows][:, None] == lesions] = -1
        return rows, similarity, (1 - similarity) / (1 - cosines.max(axis=1))

    def show(name, passed, similarity):
        columns = [f"{part.mean():8.2%}" if part.dtype == bool else f"{part:8}" for part in (*passed, similarity)]
        print(f"{name:32} {' '.join(columns)}", flush=True)

    print(f"{options.backbone}, {len(table)} images of {lesions.max() + 1} lesions, {options.copies} copied")
    print(f"{'':32} {' '.join(f'≤ {ratio:6.2f}' for ratio in RATIOS)} ≥ {SIMILARITY:6.2f}")
    parts = [compare(directions[rows], rows) for rows in np.array_split(np.arange(len(table)), len(table) // 500 + 1)]
    rows, similarity, ratio = (np.concatenate(part) for part in zip(*parts, strict=True))
    agrees = table["dx"].to_numpy() == table["dx"].to_numpy()[rows]
    patient = table[["age", "sex", "localization"]].fillna({"age": -1}).astype(str)
    same = agrees & (patient.to_numpy() == patient.to_numpy()[rows]).all(axis=1)
    for name, of in (
        ("of another lesion", agrees | True),
        ("… same diagnosis", agrees),
        ("… same patient data too", same),
    ):
        counts = [int((of & (ratio <= bound)).sum()) for bound in RATIOS]
        show(name, map(np.int64, counts), np.int64((of & (similarity >= SIMILARITY)).sum()))

    chosen = np.sort(np.random.default_rng(1).permutation(len(table))[: options.copies])
    for name, change in CHANGES.items():
        passed, alike = [], []
        for own in np.array_split(chosen, max(1, len(chosen) // 32)):
            pictures = [change(Image.open(data.files[table["image_id"][row]]).convert("RGB")) for row in own]
            pixels = np.stack([np.asarray(picture.resize((SIZE, SIZE), BICUBIC)) for picture in pictures])
            rows, similarity, ratio = compare(normalize(scaler.transform(np.asarray(model.predict_on_batch(pixels)))))
            right = lesions[rows] == lesions[own]
            passed.append([right & (ratio <= bound) for bound in RATIOS])
            alike.append(right & (similarity >= SIMILARITY))
        show(name, np.concatenate(passed, axis=1), np.concatenate(alike))


if __name__ == "__main__":
    main()
