"""How many near-duplicates HAM10000 has, and which changed copies are found: the source of the ratios in `duplicates`.

    SKIN_TL_HAM10000=FOLDER python tests/benchmarks/near_duplicates.py [--images 10015] [--copies 1000] [--sheet FILE]

Prints for several ratios how many pairs of lesions pass, how many of them share the patient data, and the share of
changed copies that pass as near-duplicates of their own lesion; then how many pairs stand on both sides of the splits
that ignore them.  With ``--sheet``, a picture shows the pairs that are found.
"""

import argparse
import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance

sys.path[:0] = [str(Path(__file__).parent.parent.parent)]

from skin_tl.data import duplicates
from skin_tl.data.dataset import read_folder
from skin_tl.data.images import decode
from skin_tl.data.releases import find_release
from skin_tl.data.splits import draw_splits

SIZE = 224
RATIOS = (0.4, 0.45, 0.5, 0.6, 0.7, 0.75, 0.8)
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


def draw_pairs(pairs, pixels, ids, file, side=150, columns=6):
    """Draw the pairs side by side with their ratios into a PNG file."""
    place = {image_id: row for row, image_id in enumerate(ids)}
    sheet = Image.new("RGB", (columns * (2 * side + 10), -(-len(pairs) // columns) * (side + 18)), "white")
    for n, pair in enumerate(pairs.itertuples()):
        x, y = n % columns * (2 * side + 10), n // columns * (side + 18)
        for k, image_id in enumerate((pair.image_id, pair.nearest_image_id)):
            sheet.paste(Image.fromarray(pixels[place[image_id]]).resize((side, side)), (x + k * side, y))
        ImageDraw.Draw(sheet).text((x, y + side), f"{pair.ratio:.2f} {pair.dx}/{pair.nearest_dx}", fill="black")
    sheet.save(file)


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--images", type=int, default=10015)
    parser.add_argument("--copies", type=int, default=1000)
    parser.add_argument("--sheet")
    options = parser.parse_args()
    data = read_folder(*find_release("HAM10000"))
    table = data.metadata.sample(options.images, random_state=0).sort_values("image_id", ignore_index=True)
    pixels = decode({image_id: data.files[image_id] for image_id in table["image_id"]}, SIZE).pixels
    values, lesions = duplicates.descriptors(pixels), table["lesion_id"].factorize()[0]

    def show(name, numbers, form):
        print(f"{name:32} {' '.join(format(number, form) for number in numbers)}", flush=True)

    show("ratio at most", RATIOS, "8.2f")
    rows, ratio = duplicates.nearest_of_other_lesions(values, values, lesions, lesions)
    patient = table[duplicates.PATIENT_DATA].fillna({"age": -1}).astype(str).to_numpy()
    for name, alike in (("pairs of lesions", 1), ("… same diagnosis", patient[:, :1]), ("… patient data", patient)):
        same = np.ones(len(table), bool) if name == "pairs of lesions" else (alike == alike[rows]).all(axis=1)
        pairs = [
            {tuple(sorted(pair)) for pair in zip(lesions[part], lesions[rows][part], strict=True)}
            for part in (same & (ratio <= bound) for bound in RATIOS)
        ]
        show(name, map(len, pairs), "8d")

    chosen = np.sort(np.random.default_rng(1).permutation(len(table))[: options.copies])
    for name, change in CHANGES.items():
        pictures = [change(Image.open(data.files[table["image_id"][row]]).convert("RGB")) for row in chosen]
        copies = np.stack([np.asarray(picture.resize((SIZE, SIZE), BICUBIC)) for picture in pictures])
        rows, ratio = duplicates.nearest_of_other_lesions(duplicates.descriptors(copies), values, lesions)
        show(name, [((lesions[rows] == lesions[chosen]) & (ratio <= bound)).mean() for bound in RATIOS], "8.1%")

    pairs = duplicates.near_duplicates(pixels, table)
    print(f"{len(pairs)} pairs are found, {int((pairs['dx'] == pairs['nearest_dx']).sum())} of one diagnosis")
    for seed in (1, 2, 3):
        subset = draw_splits(table, ["lesion"], [seed]).set_index("image_id")["subset"]
        sides = [subset.loc[pairs[name]].to_numpy() for name in ("image_id", "nearest_image_id")]
        apart = (sides[0] == "test") != (sides[1] == "test")
        print(f"seed {seed}: {apart.sum()} pairs have one image in the test subset and one outside it")
    if options.sheet:
        draw_pairs(pairs, pixels, table["image_id"], options.sheet)


if __name__ == "__main__":
    main()
