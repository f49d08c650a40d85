"""Training: heads on a frozen backbone's features, and what every run writes.

Takes features, the metadata and the splits; gives per split policy, preprocessing and seed a trained head, its history
and its predictions on the validation and test subsets, the same for each head of the study's experiments, and writes
them as one run.  Whole networks are trained by `skin_tl.models.tuning` and written here alike.
"""

import itertools
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from threadpoolctl import threadpool_limits

from skin_tl.data.splits import fraction_rows, subset_rows
from skin_tl.errors import SkinTLError
from skin_tl.files import write_atomically, write_csv, write_json
from skin_tl.models.backbones import RANDOM_WEIGHTS_SEED, count_parameters_with_classifier
from skin_tl.models.heads import (
    HeadName,
    Job,
    NoLog,
    TrainedHead,
    head_file,
    labels_of,
    predict,
    timing_key,
    train_head,
    without_preprocessing,
)
from skin_tl.models.runs import Prepared, run_record
from skin_tl.progress import bar
from skin_tl.registry import transform_of
from skin_tl.schema import EXPERIMENT, HEAD, HISTORY_COLUMNS, PREDICTION_COLUMNS, RANDOM_WEIGHTS, STRATEGIES, TUNED
from skin_tl.study import Study


def train_run(
    study: Study,
    strategy: str,
    backbone: str,
    prepared: Prepared,
    folder: Path,
    curves: Callable[[pd.DataFrame | None], object] | None = None,
    epoch_log: Callable = NoLog,
    keep_checkpoints: bool = False,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Train everything of one backbone and strategy and write the run.

    Parameters
    ----------
    study
        Must list the strategy.
    strategy : {'feature_extraction', 'fine_tuning', 'from_scratch'}
    backbone
        A key of `skin_tl.registry.BACKBONES`.
    prepared
        The checked table, the splits, the decoded images and the source of weights.
    folder
        Gets heads/ (or models/ and tensorboard/, of whole networks), history.csv, predictions.csv and run.json, in this
        order.
    curves
        Called with the history of the whole networks after each of their epochs, and with None at the end.
    epoch_log
        Makes the log of a whole network, such as `skin_tl.reporting.watching.EpochLog`.
    keep_checkpoints
        Whether what whole networks go on from stays once the run is written, for a caller with whom it may still fail.

    Returns
    -------
    predictions, history
        As written.
    """
    started = datetime.now(UTC)
    if strategy not in study.strategies:
        raise SkinTLError(
            f"The study {study.name!r} has no strategy {strategy!r}; it has {', '.join(study.strategies)}. Name one of "
            f"these, or add it to `strategies` (known: {', '.join(STRATEGIES)})."
        )
    metadata = prepared.metadata.set_index("image_id").loc[prepared.images.ids].reset_index()
    weights = {"source": "random"} if strategy == "from_scratch" else prepared.weights["backbones"][backbone]
    given = (study, strategy, backbone, prepared.images, metadata, weights, Path(folder))
    job = Job(*given, on_epoch=curves, epoch_log=epoch_log, computed=prepared.features)
    due = _heads(study, prepared, metadata, control=strategy == "feature_extraction" and weights["source"] != "random")
    predictions, history = _tables(_train(job, due))
    if curves and strategy in TUNED:
        curves(None)
    write_csv(folder / "history.csv", history)
    write_csv(folder / "predictions.csv", predictions)
    write_json(folder / "run.json", _record(job, prepared, due, started))
    if not keep_checkpoints:
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return predictions, history


def _train(job: Job, due: dict[HeadName, dict[str, np.ndarray]]) -> Iterator[TrainedHead]:
    """Train what is due by the strategy of a job, see `_train_heads` and `skin_tl.models.tuning.train_networks`."""
    if job.strategy == "feature_extraction":
        return _train_heads(job, due)
    from skin_tl.models.devices import hold_to_determinism
    from skin_tl.models.tuning import train_networks

    hold_to_determinism(job.study)
    return train_networks(job, {name: rows for name, rows in due.items() if name[0] == "main"})


def _tables(trained: Iterable[TrainedHead]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return predictions and histories of all heads as one table each, with the columns that name a head."""
    predictions, histories = [], []
    for name, history, tables in trained:
        head = dict(zip(HEAD, name, strict=True))
        histories.append(history.assign(**head)[HISTORY_COLUMNS])
        predictions += [
            table.assign(dataset="internal", subset=subset, **head)[PREDICTION_COLUMNS]
            for subset, table in tables.items()
        ]
    return pd.concat(predictions, ignore_index=True), pd.concat(histories, ignore_index=True)


def _train_heads(job: Job, heads: dict[HeadName, dict[str, np.ndarray]]) -> Iterator[TrainedHead]:
    """Train heads on features; save each."""
    trained, labels = {}, labels_of(job.metadata)
    with threadpool_limits(1, "blas"), bar(total=len(heads), what=f"training {job.backbone}", unit="head") as shown:
        for preprocessing, control in _passes(heads):
            features = job.features(preprocessing, control)
            transform = transform_of(job.backbone, preprocessing)
            for whole in (True, False) if len(job.study.train_fractions) > 1 else (True,):
                clock = time.perf_counter()
                mine = {
                    name: (transform, *without_preprocessing(name))
                    for name in heads
                    if (name[2], name[0] == RANDOM_WEIGHTS, name[-1] == 1) == (preprocessing, control, whole)
                }
                if not mine:  # the control is trained on all lesions alone
                    continue
                due = {same: heads[name] for name, same in mine.items() if same not in trained}
                found = _side_by_side(delayed(train_head)(features, labels, rows, job.study) for rows in due.values())
                for name, same in mine.items():
                    if same not in trained:  # two names for one computation share its result
                        trained[same] = next(found)
                    (head, history), rows = trained[same], heads[name]
                    tables = {subset: predict(head, features, rows[subset], job.metadata) for subset in ("val", "test")}
                    with write_atomically(job.folder / "heads" / head_file(*name)) as part:
                        head.save(part)
                    shown.update()
                    yield name, history.assign(stage="head"), tables
                job.timings[timing_key("heads", name)] = round(time.perf_counter() - clock, 3)


def _passes(heads):
    """Return the features that heads rest on, in order: pairs of preprocessing, and whether weights are random."""
    return list(dict.fromkeys((name[2], name[0] == RANDOM_WEIGHTS) for name in heads))


def _record(
    job: Job, prepared: Prepared, due: dict[HeadName, dict[str, np.ndarray]], started: datetime
) -> dict[str, Any]:
    """Return what ``run.json`` says of a run."""
    study, strategy = job.study, job.strategy
    if strategy in TUNED:
        from skin_tl.models.devices import device

        n_parameters = count_parameters_with_classifier(job.backbone)
        job.about.update(n_parameters_with_classifier=n_parameters, device=device(cpu=study.device == "cpu"))
    control = [preprocessing for preprocessing, control in _passes(due) if control]
    return run_record(study, strategy, job.backbone, prepared.images.key, prepared.splits, started) | {
        **job.about,
        "weights": job.weights,
        "random_weights": job.weights["source"] == "random",
        **({"random_control": {"preprocessing": control[0], "seed": RANDOM_WEIGHTS_SEED}} if control else {}),
        "timings": job.timings,
    }


def _side_by_side(calls):
    """Run delayed calls in threads, one per core, and yield their results in order.

    Each thread computes alone (see the limit on BLAS): for matrices this small, threads that share one product wait
    for each other more than they help, and the result does not depend on the number of cores.
    """
    return Parallel(n_jobs=-1, prefer="threads", return_as="generator")(calls)


def _heads(study, prepared, metadata, control=False):
    """Return the rows of each head by its name (see `HEAD`): the study's own, experiments', and those of fractions.

    With `control`, those of the study's own that are trained once more on random weights are the last.
    """
    heads, image_ids = {}, metadata["image_id"]
    for preprocessing, policy, seed in itertools.product(study.preprocessings, study.split_policies, study.seeds):
        heads["main", policy, preprocessing, seed, 1.0] = subset_rows(prepared.splits, policy, seed, image_ids)
    own = list(heads.items())
    for name, split in prepared.experiments.groupby(EXPERIMENT, sort=False):
        arm, policy, preprocessing, seed = name
        heads[arm, policy, preprocessing, int(seed), 1.0] = subset_rows(split, policy, seed, image_ids)
    for fraction in study.train_fractions:
        for (*name, seed, _), rows in own if fraction < 1 else []:
            heads[*name, seed, fraction] = fraction_rows(rows, metadata, fraction, seed)
    again = own if control else []
    return heads | {(RANDOM_WEIGHTS, *name): rows for (_, *name), rows in again if name[1] == study.control}
