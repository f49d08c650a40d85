"""A whole study over the forward passes that it contains: `ham10000` with ResNet50 alone.

The study runs as a user starts it, in a copy of the project with an empty cache; the passes are those of the network
of `keras.applications` over as many images, timed before and after on a part of them.  By default some lesions of
HAM10000 are taken, so that what each study costs whatever its size weighs far more than in the full one.
"""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from measured import Row, ham10000_folder, seconds, weights_folder

BACKBONE, BATCH, N_BATCHES, N_LESIONS = "ResNet50", 32, 6, 600


def part_of(folder, target, n_lesions):
    """Link the images of some lesions, and write their metadata, into a folder of the same layout."""
    from skin_tl.data.dataset import read_folder

    data = read_folder(folder)
    lesions = data.metadata.drop_duplicates("lesion_id")
    share = n_lesions / len(lesions)
    kept = pd.concat([rows.head(max(10, round(share * len(rows)))) for _, rows in lesions.groupby("dx")])["lesion_id"]
    table = data.metadata[data.metadata["lesion_id"].isin(kept)]
    target.mkdir()
    for image_id in table["image_id"]:
        file = Path(data.files[image_id]).resolve()
        (target / f"{image_id}{file.suffix}").symlink_to(file)
    table.to_csv(target / "HAM10000_metadata.csv", index=False)
    return len(table)


def measure(full):
    """Run the study once."""
    data, weights = ham10000_folder(), weights_folder()
    from copies import copy_project, start

    from skin_tl.data.dataset import read_folder
    from skin_tl.models.backbones import build_backbone
    from skin_tl.study import load_study

    study = load_study("ham10000", {"backbones": BACKBONE, "random_control": "false"})
    study = study.model_copy(update={"name": "small", "overrides": []})
    with tempfile.TemporaryDirectory() as folder:
        project = copy_project(Path(folder, "project"), study)
        given, n = data, len(read_folder(data).metadata) if full else 0
        if not full:
            given = Path(folder, "HAM10000")
            n = part_of(data, given, N_LESIONS)
        source = {"source": "file", "file": str(weights / f"{BACKBONE.lower()}_notop.weights.h5")}
        plain = build_backbone(BACKBONE, "native", study.image_size, source).layers[-1]
        shape = (BATCH, study.image_size, study.image_size, 3)
        batch = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)

        def passes():
            each = seconds(lambda: [plain.predict_on_batch(batch) for _ in range(N_BATCHES)]) / (N_BATCHES * BATCH)
            return n * each

        plain.predict_on_batch(batch)
        before = passes()
        variables = {"SKIN_TL_HAM10000": str(given), "SKIN_TL_WEIGHTS": str(weights)}
        done = []
        took = seconds(lambda: done.append(start(project, **variables)))
        if done[0].returncode:
            raise SystemExit(done[0].stderr[-2000:])
        around = [before, passes()]
    ratios = sorted(took / passed for passed in around)
    note = "" if full else f"no aim at this size: {took - np.mean(around):.0f} s go to all that is no pass"
    aim = "<= 1.05" if full else ""
    other = float(np.mean(around))
    spread = (took / other, ratios[0], ratios[-1])
    case = f"ham10000, {BACKBONE}, {n:,} images, three seeds and its experiments, over its forward passes"
    yield Row("study", case, took, other, "s", *spread, 2, aim, note)
