"""Explanations: which images a network is asked about, what it looks at in them, and how its features lie.

Takes a trained run (its first head or network, and ``predictions.csv``) and the decoded images; gives the whole model
``model.keras`` and the folder ``explanations/`` of the run: chosen test images with their Grad-CAM
(`skin_tl.explain.gradcam`), and a 2-D map of the features; and of all runs the tables that the report takes its words
from.  Which images are shown is decided by their probabilities alone, before any map is drawn.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from skin_tl.errors import SkinTLError
from skin_tl.evaluation.predictions import main_arm, read_predictions, read_table, where
from skin_tl.files import read_json, write_atomically, write_csv
from skin_tl.schema import CLASSES, PROBABILITIES, TUNED
from skin_tl.study import Study, command_of

if TYPE_CHECKING:
    import keras

    from skin_tl.evaluation.study_files import StudyFiles

N_ERRORS = 6
"""Most confident errors that are shown of each backbone, each of another lesion."""

N_POINTS = 3000
"""Images on the 2-D map of the features, drawn at random where the data set has more."""

LEAST_SIDE = 3
"""Places along each side of a network's last map from which on the share of a map in the middle says something.  With
one or two, every place is enlarged to lie there by the same quarter, whatever the map shows; with three, a share may be
anything from 8 to 88 %."""

SURE = 0.9
"""From this probability on an error is called confident."""


def explained_head(study: Study) -> dict:
    """Return split_policy, preprocessing and seed of the head in every ``model.keras``: the study's first ones."""
    policy, preprocessing, seed = study.split_policies[0], study.preprocessings[0], study.seeds[0]
    return {"split_policy": policy, "preprocessing": preprocessing, "seed": seed}


def tested_images(predictions: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Return what the head in ``model.keras`` predicts for its test subset.

    Parameters
    ----------
    predictions
        A run's.
    study

    Returns
    -------
    pandas.DataFrame
        image_id, lesion_id, dx, predicted (the most probable diagnosis) and probability (its), sorted by image_id.
    """
    table = where(main_arm(predictions), dataset="internal", subset="test", **explained_head(study))
    chances = table[PROBABILITIES].to_numpy()
    table = table[["image_id", "lesion_id", "dx"]].assign(
        predicted=np.array(CLASSES)[chances.argmax(axis=1)], probability=chances.max(axis=1)
    )
    return table.sort_values("image_id", ignore_index=True)


def choose(tested: pd.DataFrame) -> pd.DataFrame:
    """Choose images from `tested_images` to be explained, by fixed rules.

    Of each diagnosis one that is recognised (``hit``) and one that is not (``miss``): the one with the median
    probability of the predicted diagnosis, the lower of the two middle ones, so neither the best nor the worst.  And
    of all errors the `N_ERRORS` with the highest probability (``error``), one image per lesion.  Equal ones stand in
    the order of their image ids.

    Returns
    -------
    pandas.DataFrame
        The columns of `tested` behind kind; hits and misses in the order of `CLASSES`, then errors, the surest first.
        A diagnosis without a hit, or a miss, has no row for it.
    """
    order = tested.sort_values(["probability", "image_id"], ascending=[False, True], kind="stable")
    right = order["dx"] == order["predicted"]
    rows = []
    for dx in CLASSES:
        for kind, keep in (("hit", right), ("miss", ~right)):
            found = order[keep & (order["dx"] == dx)]
            if len(found):
                rows.append(found.iloc[[len(found) // 2]].assign(kind=kind))
    rows.append(order[~right].drop_duplicates("lesion_id").head(N_ERRORS).assign(kind="error"))
    table = pd.concat(rows, ignore_index=True)
    return table[["kind", *tested.columns]]


def share_in_the_middle(maps: np.ndarray) -> np.ndarray:
    """Return the share of each map in the central quarter of the image's area.

    Parameters
    ----------
    maps
        (n, size, size) not negative.

    Returns
    -------
    numpy.ndarray
        (n,) float64 in 0…1, a quarter for an even map; NaN for a map that is zero everywhere.
    """
    maps = maps.astype(np.float64)
    size = maps.shape[1]
    inside = slice(size // 4, size - size // 4)
    total = maps.sum(axis=(1, 2))
    with np.errstate(invalid="ignore"):
        return maps[:, inside, inside].sum(axis=(1, 2)) / total


def likeness(maps: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the correlation over pixels of pairs of maps, (n, size, size) each.

    Returns
    -------
    numpy.ndarray
        (n,) float64 in -1…1; NaN where one of the two is the same everywhere.
    """
    flat = [np.asarray(part, np.float64).reshape(len(part), -1) for part in (maps, others)]
    a, b = (part - part.mean(axis=1, keepdims=True) for part in flat)
    with np.errstate(invalid="ignore"):
        return (a * b).sum(axis=1) / np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))


def drawn_rows(n_images: int, n_points: int = N_POINTS, seed: int = 0) -> np.ndarray:
    """Return which images are laid out, (n,) int, sorted: all, or `n_points` drawn at random where there are more."""
    if n_images <= n_points:
        return np.arange(n_images)
    return np.sort(np.random.default_rng(seed).choice(n_images, n_points, replace=False))


def lay_out(features: np.ndarray, seed: int = 0) -> np.ndarray:
    """Project the features of images to two dimensions by t-SNE.

    Source: L. van der Maaten, G. Hinton, Visualizing Data using t-SNE, JMLR 9 (2008); scikit-learn's, after a principal
    component analysis.  One thread, so that the same features give the same places.

    Parameters
    ----------
    features
        (n_images, n_features) float32, of a few thousand images.
    seed

    Returns
    -------
    numpy.ndarray
        (n_images, 2) float, to three decimals.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    values = features.astype(np.float64)
    values -= values.mean(axis=0)
    values /= np.sqrt(np.square(values).mean()) or 1.0  # an untrained network's features are of any scale
    with threadpool_limits(1):
        n_components = min(50, *values.shape)
        values = PCA(n_components, svd_solver="randomized", random_state=seed).fit_transform(values)
        perplexity = min(30, (len(values) - 1) / 3)
        places = TSNE(2, perplexity=perplexity, init="pca", random_state=seed, n_jobs=1).fit_transform(values)
    return np.round(places.astype(np.float64), 3)


def explain(study: Study, strategy: str, backbone: str, folder: Path) -> None:
    """Write ``model.keras`` of a run; choose test images, compute their maps and the 2-D map of the features, and write
    ``explanations/``.

    ``images.csv`` holds the chosen images, ``maps.npy`` their Grad-CAM for the predicted diagnosis, (n, size, size)
    float16 in the order of that table, ``shuffled_maps.npy`` the same of the network with its weights shuffled, and
    ``points.csv`` the 2-D map of the features.  In ``images.csv``, map_side is how many places the map has along each
    side before it is enlarged; with fewer than `LEAST_SIDE`, middle is empty.

    Parameters
    ----------
    study
    strategy, backbone
    folder
        The study's folder below ``runs/``.

    Raises
    ------
    SkinTLError
        If a file of the run is missing or damaged.
    """
    from skin_tl.data.preparation import read_images, read_metadata_table, read_splits
    from skin_tl.explain.gradcam import feature_maps, gradcam, in_batches, shuffle_weights
    from skin_tl.models.backbones import features_model
    from skin_tl.models.features import find_features

    run = folder / strategy / backbone
    predictions = read_predictions(run / "predictions.csv", read_splits(folder))
    chosen = choose(tested_images(predictions, study))
    images = read_images(folder)
    row_of = {image_id: row for row, image_id in enumerate(images.ids)}
    pixels = images.pixels[[row_of[image_id] for image_id in chosen["image_id"]]]
    asked = [CLASSES.index(dx) for dx in chosen["predicted"]]
    model = open_model(study, strategy, backbone, folder)
    with write_atomically(run / "model.keras") as part:
        model.save(part)
    rows = drawn_rows(len(images.ids))
    if strategy in TUNED:  # its backbone is no longer the one whose features were computed
        batches = in_batches(features_model(model), images.pixels, rows)
        features = np.concatenate([values for _, values in batches])
    else:
        features = find_features(study, folder, images, backbone, explained_head(study)["preprocessing"])[rows]
    places = lay_out(features)
    seen = feature_maps(model)
    maps = gradcam(model, pixels, asked, seen).astype(np.float16)
    shuffle_weights(model)
    shuffled = gradcam(model, pixels, asked, seen).astype(np.float16)
    metadata = read_metadata_table(folder).set_index("image_id").loc[images.ids].reset_index()
    points = metadata.loc[rows, ["image_id", "lesion_id", "dx"]].assign(x=places[:, 0], y=places[:, 1])
    side = seen.output_shape[0][1]
    middle = share_in_the_middle(maps) if side >= LEAST_SIDE else np.nan
    chosen = chosen.assign(map_side=side, middle=middle, likeness=likeness(maps, shuffled))
    with write_atomically(run / "explanations") as part:
        part.mkdir()
        write_csv(part / "images.csv", chosen)
        np.save(part / "maps.npy", maps)
        np.save(part / "shuffled_maps.npy", shuffled)
        write_csv(part / "points.csv", points)


def open_model(study: Study, strategy: str, backbone: str, folder: Path) -> keras.Model:
    """Open the first network of a run, or build its backbone and put the first head on it: what ``model.keras`` holds.

    Parameters
    ----------
    folder
        The study's folder below ``runs/``.

    Returns
    -------
    keras.Model
        From (n, size, size, 3) uint8 to (n, 7) probabilities.

    Raises
    ------
    SkinTLError
        If a file of the run cannot be read.
    """
    from skin_tl.models.heads import Head, head_file  # which brings scikit-learn

    run, head = folder / strategy / backbone, explained_head(study)
    name = ("main", *head.values())
    if strategy in TUNED:
        from skin_tl.models.tuning import read_network

        return read_network(run, *name)
    from skin_tl.models.backbones import build_backbone, join

    trained = Head.read(run / "heads" / head_file(*name))
    weights = read_json(folder / "weights.json")["backbones"][backbone]
    built = build_backbone(backbone, head["preprocessing"], study.image_size, weights, features=study.features)
    return join(built, trained)


# What the report needs ------------------------------------------------------------------------------------------


def read_maps(run: Path, n_images: int, made_by: str) -> np.ndarray:
    """Read the maps of a run's chosen images, (n_images, size, size) float16.

    Raises
    ------
    SkinTLError
        If they are missing or not as many as the images.
    """
    file = run / "explanations" / "maps.npy"
    try:
        maps = np.load(file, allow_pickle=False)
    except (OSError, ValueError):
        raise SkinTLError(f"{file} is missing or damaged. It is written by `{made_by}`: run that first.") from None
    if len(maps) != n_images:
        raise SkinTLError(f"{file}: {len(maps)} maps for {n_images} images. Delete it and run `{made_by}` again.")
    return maps


def explanation_tables(files: StudyFiles) -> dict[str, pd.DataFrame]:
    """Make the tables of the report that say what was explained.

    Returns
    -------
    dict
        ``explanations.csv``: strategy, split_policy, preprocessing, seed, backbone, place (of the map in ``maps.npy``)
        and the columns of ``images.csv``.  ``explained.csv``, one row per run: n_tested, n_wrong, n_confident (errors
        with a probability of `SURE` or more), sure (`SURE`), n_maps, n_hits, n_misses, n_errors (shown), map_side,
        least_side (`LEAST_SIDE`), surest, surest_dx and surest_predicted (of the most confident error), middle_hits,
        middle_misses and likeness (means; the former two are empty where the maps are too coarse for them).
        ``points.csv``: strategy, preprocessing, backbone and the columns of the runs' files.  ``feature_maps.csv``:
        strategy, preprocessing, backbone, n_points, n_images, same (share of points whose nearest point of another
        lesion has the same diagnosis) and by_chance (what that share is if points are drawn at random).
    """
    head, command = explained_head(files.study), command_of(files.study.name)
    text = dict.fromkeys(("image_id", "lesion_id"), str)
    images, summaries, points, shares = [], [], [], []
    for strategy, backbone in files.runs:
        folder = files.folder / strategy / backbone / "explanations"
        names = {"strategy": strategy} | head | {"seed": str(head["seed"]), "backbone": backbone}
        chosen = read_table(folder / "images.csv", command, dtype=text).reset_index(names="place")
        images.append(_labelled(chosen, names))
        own = where(files.predictions, strategy=strategy, backbone=backbone)
        summaries.append(names | _summary(tested_images(own, files.study), chosen))
        names = {name: names[name] for name in ("strategy", "preprocessing", "backbone")}
        placed = read_table(folder / "points.csv", command, dtype=text)
        points.append(_labelled(placed, names))
        shares.append(names | {"n_points": len(placed), "n_images": len(files.metadata)} | neighbours(placed))
    return {
        "explanations.csv": pd.concat(images, ignore_index=True),
        "explained.csv": pd.DataFrame(summaries),
        "points.csv": pd.concat(points, ignore_index=True),
        "feature_maps.csv": pd.DataFrame(shares),
    }


def _labelled(table: pd.DataFrame, names: dict[str, str]) -> pd.DataFrame:
    return pd.DataFrame({name: [value] * len(table) for name, value in names.items()}).join(table)


def _summary(tested: pd.DataFrame, chosen: pd.DataFrame) -> dict[str, float | str]:
    wrong = tested[tested["dx"] != tested["predicted"]]
    kinds = {kind: chosen[chosen["kind"] == kind] for kind in ("hit", "miss", "error")}
    found = {
        "n_tested": len(tested),
        "n_wrong": len(wrong),
        "n_confident": int((wrong["probability"] >= SURE).sum()),
        "sure": SURE,
        "n_maps": len(chosen),
        "n_hits": len(kinds["hit"]),
        "n_misses": len(kinds["miss"]),
        "n_errors": len(kinds["error"]),
        "map_side": int(chosen["map_side"].iloc[0]),
        "least_side": LEAST_SIDE,
        "middle_hits": kinds["hit"]["middle"].mean(),
        "middle_misses": kinds["miss"]["middle"].mean(),
        "likeness": chosen["likeness"].mean(),
    }
    if len(kinds["error"]):
        surest = kinds["error"].iloc[0]
        found |= {"surest": surest["probability"], "surest_dx": surest["dx"], "surest_predicted": surest["predicted"]}
    return found


def neighbours(points: pd.DataFrame) -> dict[str, float]:
    """Return how often the nearest point of another lesion has the same diagnosis, and how often a random one has.

    Parameters
    ----------
    points
        lesion_id, dx, x, y.

    Returns
    -------
    dict
        same and by_chance, 0…1; NaN where there is one lesion only.
    """
    from scipy.spatial import KDTree

    places, dx, lesion = points[["x", "y"]].to_numpy(), points["dx"].to_numpy(), points["lesion_id"].to_numpy()
    of_lesion = points.groupby("lesion_id")["dx"].transform("size").to_numpy()
    n_near = min(int(of_lesion.max()) + 1, len(points))
    near = KDTree(places).query(places, n_near)[1].reshape(len(points), n_near)
    others = lesion[near] != lesion[:, None]
    has_one = others.any(axis=1)
    first = near[np.arange(len(points)), others.argmax(axis=1)]
    of_diagnosis = points.groupby("dx")["dx"].transform("size").to_numpy()
    with np.errstate(invalid="ignore"):
        chance = (of_diagnosis - of_lesion) / (len(points) - of_lesion)
    if not has_one.any():
        return {"same": np.nan, "by_chance": np.nan}
    return {"same": (dx[first] == dx)[has_one].mean(), "by_chance": chance[has_one].mean()}
