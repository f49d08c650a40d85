"""Training a classifier as this project does it, over the recipe of Keras's guide to transfer learning.

The recipe (https://keras.io/guides/transfer_learning): images read by `image_dataset_from_directory`, a frozen base
within the network that `fit` trains, global average pooling, a dense layer, Adam, early stopping on the validation
loss.  Ours decodes the images, passes each once through the same base, and trains the heads on its features.  Both
start from files and end with the macro F1 of the test subset; by default on some lesions of HAM10000.
"""

import os
import tempfile
from pathlib import Path

import numpy as np
from bench_study import BACKBONE, BATCH, part_of
from measured import Row, ham10000_folder, seconds, weights_folder

from skin_tl.schema import CLASSES

N_LESIONS, MAX_EPOCHS, PATIENCE = 300, 50, 5
SEEDS, POLICIES = (1, 2, 3), ("lesion", "image")


class Case:
    """The images, their splits and the backbone's weights; `scores` holds each side's macro F1 of the test subset."""

    def __init__(self, folder, weights_file):
        from skin_tl.data.dataset import read_folder
        from skin_tl.data.splits import draw_splits, subset_rows
        from skin_tl.models.heads import labels_of
        from skin_tl.study import load_study

        self.study = load_study("ham10000", {"backbones": BACKBONE})
        self.data, self.weights_file = read_folder(folder), weights_file
        self.ids = self.data.metadata["image_id"].tolist()
        self.labels = labels_of(self.data.metadata)
        splits = draw_splits(self.data.metadata, POLICIES, SEEDS)
        self.rows = {
            (policy, seed): subset_rows(splits, policy, seed, self.ids) for policy in POLICIES for seed in SEEDS
        }
        self.scores = {}

    def ours(self, heads):
        """Decode, extract, and train heads on some of `rows`."""
        from sklearn.metrics import f1_score

        from skin_tl.data.images import decode
        from skin_tl.models.backbones import build_backbone
        from skin_tl.models.features import extract
        from skin_tl.models.heads import train_head

        with tempfile.TemporaryDirectory() as cache:
            os.environ["SKIN_TL_CACHE"] = cache
            weights = {"source": "file", "file": str(self.weights_file)}
            images = decode(self.data.files, self.study.image_size)
            model = build_backbone(BACKBONE, "native", images.size, weights, features=self.study.features)
            features, _ = extract(images, BACKBONE, "native", model)
            scores = []
            for rows in heads:
                head, _ = train_head(features, self.labels, rows, self.study)
                found = head.probabilities(features[rows["test"]]).argmax(axis=1)
                scores.append(f1_score(self.labels[rows["test"]], found, average="macro"))
        self.scores["ours"] = scores[0]

    def recipe(self, folder, rows):
        """Train by `fit`; return the number of epochs."""
        import keras
        from sklearn.metrics import f1_score

        size = self.study.image_size
        subsets = {name: self._read(Path(folder, name), rows[name], size, name == "train") for name in rows}
        base = keras.applications.ResNet50(include_top=False, weights=None, input_shape=(size, size, 3))
        base.load_weights(self.weights_file)
        base.trainable = False
        pixels = keras.Input((size, size, 3))
        features = base(keras.applications.resnet50.preprocess_input(pixels), training=False)
        outputs = keras.layers.Dense(len(CLASSES), "softmax")(keras.layers.GlobalAveragePooling2D()(features))
        network = keras.Model(pixels, outputs)
        network.compile(keras.optimizers.Adam(), "sparse_categorical_crossentropy")
        stop = keras.callbacks.EarlyStopping(patience=PATIENCE, restore_best_weights=True)
        fitted = network.fit(
            subsets["train"], validation_data=subsets["val"], epochs=MAX_EPOCHS, callbacks=[stop], verbose=0
        )
        labels = np.concatenate([batch.numpy() for _, batch in subsets["test"]])
        found = network.predict(subsets["test"], verbose=0).argmax(axis=1)
        self.scores["recipe"] = f1_score(labels, found, average="macro")
        return len(fitted.epoch)

    def _read(self, folder, rows, size, shuffle):
        import keras

        for row in rows:
            file = Path(self.data.files[self.ids[row]]).resolve()
            (folder / CLASSES[self.labels[row]]).mkdir(parents=True, exist_ok=True)
            (folder / CLASSES[self.labels[row]] / file.name).symlink_to(file)
        return keras.utils.image_dataset_from_directory(
            folder, class_names=list(CLASSES), image_size=(size, size), batch_size=BATCH, shuffle=shuffle, verbose=False
        ).prefetch(2)


def measure(full):
    """Compare one training, and as many as a study of three seeds and two splits has."""
    given, weights_file = ham10000_folder(), weights_folder() / f"{BACKBONE.lower()}_notop.weights.h5"
    with tempfile.TemporaryDirectory() as folder:
        if not full:
            part_of(given, Path(folder, "HAM10000"), N_LESIONS)
            given = Path(folder, "HAM10000")
        case = Case(given, weights_file)
        first, epochs = case.rows[POLICIES[0], SEEDS[0]], []
        theirs = seconds(lambda: epochs.append(case.recipe(Path(folder, "recipe"), first)))
        for heads, aim, what in (
            ([first], ">= 12", "one seed, one split"),
            ([*case.rows.values()], ">= 30", "three seeds, two splits"),
        ):
            took = seconds(lambda heads=heads: case.ours(heads))
            other = len(heads) * theirs
            scores = f"macro F1 {case.scores['ours']:.2f}, the recipe's {case.scores['recipe']:.2f}"
            note = f"{scores} after {epochs[0]} epochs" + (f", timed once for {len(heads)}" if len(heads) > 1 else "")
            if case.scores["ours"] < case.scores["recipe"]:
                aim, note = "", f"{note}: not equal"
            label = f"{BACKBONE}, {len(case.ids):,} images, {what}, over the recipe of Keras's guide"
            ratio = other / took
            yield Row("recipe", label, took, other, "s", ratio, ratio, ratio, 1, aim, note)
