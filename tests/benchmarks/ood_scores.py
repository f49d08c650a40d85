"""Which pictures count as unlike the training images, by features as they are and by standardised ones.

    SKIN_TL_HAM10000=FOLDER python tests/benchmarks/ood_scores.py [STUDY] [--backbone NAME] [--lesions 5]

For a finished study, prints the limit that its validation images set (`skin_tl.explain.neighbours`), the share of its
test images above it, also by diagnosis, and the score of other pictures as a share of the limit: plain colours,
text, drawings, photographs of other things (those of scikit-learn and matplotlib), and changed test images.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import cbook
from PIL import Image, ImageDraw, ImageFilter, ImageOps
from sklearn.datasets import load_sample_images
from sklearn.preprocessing import StandardScaler

sys.path[:0] = [str(Path(__file__).parent.parent.parent)]

from skin_tl.apps.predictor import BATCH, by_batches, load_predictor
from skin_tl.apps.runs import find_study, finished_runs
from skin_tl.data.preparation import read_images, read_metadata_table, read_splits
from skin_tl.data.splits import subset_rows
from skin_tl.explain.neighbours import LIKE, OOD_NEIGHBOUR, Rows, nearest, ood_score

SIZE = (600, 450)
SKIN, BROWN = "#e0ac8c", "#5a3c28"
COLOURS = ("white", "black", "grey", "pink", "red", "blue", SKIN, BROWN)


def text(paper, ink):
    """Draw lines of text."""
    picture = Image.new("RGB", SIZE, paper)
    for line in range(14):
        told = "The quick brown fox jumps over the lazy dog 0123456789"[line % 7 :]
        ImageDraw.Draw(picture).text((10, 10 + 30 * line), told, fill=ink, font_size=24)
    return picture


def others():
    """Return pictures that are no lesions, by kind."""
    disc = Image.new("RGB", SIZE, SKIN)
    ImageDraw.Draw(disc).ellipse((200, 130, 400, 320), fill=BROWN)
    word = Image.new("RGB", SIZE, "white")
    ImageDraw.Draw(word).text((150, 180), "melanoma?", fill="black", font_size=80)
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        photographs = [*map(Image.fromarray, load_sample_images().images), Image.open(file).convert("RGB")]
    noise = np.random.default_rng(0).integers(0, 255, (450, 600, 3), np.uint8)
    return {
        "plain colour": [Image.new("RGB", SIZE, colour) for colour in COLOURS],
        "text": [text("white", "black"), text("black", "white"), text(SKIN, BROWN), word],
        "photograph": photographs,
        "noise": [Image.fromarray(noise)],
        "drawn disc": [disc, disc.filter(ImageFilter.GaussianBlur(12))],
    }


CHANGES = {
    "lesion": lambda image: image,
    "… turned": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "… a corner of it": lambda image: image.crop((0, 0, image.width // 4, image.height // 4)),
    "… grey": lambda image: image.convert("L").convert("RGB"),
    "… blurred": lambda image: image.filter(ImageFilter.GaussianBlur(6)),
    "… inverted": ImageOps.invert,
}


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("study", nargs="?")
    parser.add_argument("--backbone")
    parser.add_argument("--lesions", type=int, default=5)
    options = parser.parse_args()
    folder = find_study(options.study)
    images, table = read_images(folder), read_metadata_table(folder).set_index("image_id")
    dx = table.loc[images.ids, "dx"].to_numpy()
    for run in finished_runs(folder, options.backbone and [options.backbone]):
        predictor = load_predictor(run)
        known, features = predictor.known.features, predictor.known.features.values
        splits = read_splits(folder)
        rows = subset_rows(splits, *splits.iloc[0][["split_policy", "seed"]], images.ids)
        lesions = [Image.fromarray(images.pixels[row]) for row in rows["test"][: options.lesions]]
        pictures = others() | {name: [change(image) for image in lesions] for name, change in CHANGES.items()}
        size = (images.size, images.size)
        pixels = [np.asarray(one.resize(size, Image.Resampling.BICUBIC)) for kind in pictures.values() for one in kind]
        kinds = np.repeat(list(pictures), [len(kind) for kind in pictures.values()])
        seen = by_batches(predictor.body, np.stack(pixels), BATCH)
        scaler = StandardScaler().fit(known[np.arange(len(known))])
        for standardise in (False, True):

            def of(values, standardise=standardise, known=known, scaler=scaler):
                both = [part[np.arange(len(part))] for part in (values, known)]
                if standardise:
                    both = [scaler.transform(part) for part in both]
                return ood_score(nearest(*both, OOD_NEIGHBOUR)[0])

            limit, test = np.quantile(of(Rows(features, rows["val"])), LIKE), of(Rows(features, rows["test"]))
            print(f"{run.backbone}, {'standardised' if standardise else 'as they are'}: limit {limit:.3f}")
            print(f"  {len(test)} test images, above the limit: {(test > limit).mean():.2%}", end="")
            shares = pd.Series(test > limit).groupby(dx[rows["test"]]).mean()
            print(" (" + ", ".join(f"{name} {share:.1%}" for name, share in shares.items()) + ")")
            found = of(seen) / limit
            for kind in pictures:
                print(f"  {kind:16} {' '.join(f'{value:5.2f}' for value in np.sort(found[kinds == kind]))}", flush=True)


if __name__ == "__main__":
    main()
