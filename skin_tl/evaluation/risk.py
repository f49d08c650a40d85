"""Risk: calibration of the probability of melanoma.

Takes predictions; gives, per lesion (the mean probability over its images in the subset), calibration slope and
intercept, Brier score, the points of a reliability curve, and how the probabilities of melanomas, other malignant and
benign lesions are distributed.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
from scipy import optimize, special
from sklearn.linear_model import LogisticRegression

from skin_tl.evaluation import uncertainty
from skin_tl.evaluation.calibration import fit_temperature, scale_temperature
from skin_tl.evaluation.decisions import lesion_scores
from skin_tl.evaluation.estimates import mean_estimate, over_seeds
from skin_tl.evaluation.metrics import N_BOOT
from skin_tl.evaluation.predictions import configurations, validation_rows
from skin_tl.schema import OUTCOMES, PROBABILITIES, RISK_BIN_COLUMNS, RISK_COLUMNS

EDGES = (np.arange(11) / 10) ** 2
"""Of the bins of risk: squares of 0, 0.1 … 1, so that they are narrow where risks are small, as most of them are."""

LEAST_RISK = 1e-6
"""A probability nearer to 0 or 1 counts as this far away where its logit is taken."""


def risk_table(predictions: pd.DataFrame, strategy: str, backbone: str, n_boot: int = N_BOOT) -> pd.DataFrame:
    """Compute how well the probability of melanoma is calibrated on the test subset.

    Parameters
    ----------
    predictions
        From `skin_tl.evaluation.predictions.read_predictions`.
    strategy, backbone
        Written into the rows.
    n_boot
        Draws of the bootstrap over lesions.

    Returns
    -------
    pandas.DataFrame
        Columns `RISK_COLUMNS`, for each seed and for ``all``, their mean.  Metrics: `observed`, the share of melanomas,
        and `brier_of_share`, the Brier score of giving each lesion this share; `brier`, `mean_risk`, and `slope` and
        `intercept` of `recalibration`; the same of the temperature-scaled probabilities, which end in ``_scaled``,
        where each seed has validation images to fit the temperature on.
    """
    rows = []
    for labels, part in configurations(predictions, strategy=strategy, backbone=backbone):
        lesions = lesion_scores(part)
        risks = {"": lesions["melanoma_score"]}
        scaled = _scaled(part, validation_rows(predictions, labels))
        if scaled is not None:
            risks["_scaled"] = lesion_scores(scaled)["melanoma_score"]
        risks = {f"risk{ending}": risk for ending, risk in risks.items()}
        found = over_seeds(lesions.assign(**risks), partial(_estimates, list(risks)), n_boot)
        rows += [{**labels, "metric": row.pop("key"), **row} for row in found]
    return pd.DataFrame(rows, columns=RISK_COLUMNS)


def _estimates(risks, rows, drawn):
    """Estimate the metrics of the risks in some columns, from the lesions of one seed and their weights."""
    positive, lesions = rows["melanoma"].to_numpy(), rows["lesion_id"].to_numpy(str)
    found = {"observed": mean_estimate(positive, drawn, lesions)}
    shares = found["observed"].draws
    of_share = positive.mean() * (1 - positive.mean())
    found["brier_of_share"] = replace(found["observed"], value=of_share, draws=shares * (1 - shares))
    for name in risks:
        risk, ending = rows[name].to_numpy(), name.removeprefix("risk")
        found[f"brier{ending}"] = mean_estimate((risk - positive) ** 2, drawn, lesions)
        found[f"mean_risk{ending}"] = mean_estimate(risk, drawn, lesions)
        for metric, value, draws in zip(("slope", "intercept"), *recalibration(positive, risk, drawn), strict=True):
            found[f"{metric}{ending}"] = replace(found["observed"], value=value, draws=draws, difference=True)
    return found


def _scaled(test, validation):
    """Return the test rows with temperature-scaled probabilities, None where a seed has no validation rows."""
    if not set(test["seed"]) <= set(validation["seed"]):
        return None
    parts = []
    for seed, rows in test.groupby("seed"):
        fitted = validation[validation["seed"] == seed]
        temperature = fit_temperature(fitted["dx"], fitted[PROBABILITIES].to_numpy(float))
        probability = scale_temperature(rows[PROBABILITIES].to_numpy(float), temperature)
        parts.append(rows.assign(**dict(zip(PROBABILITIES, probability.T, strict=True))))
    return pd.concat(parts)


def recalibration(
    positive: np.ndarray, risk: np.ndarray, drawn: np.ndarray
) -> tuple[tuple[float, float], tuple[np.ndarray, np.ndarray]]:
    """Compute the calibration slope and intercept of a risk (Cox 1958; Van Calster et al., BMC Medicine 2019).

    The slope is that of a logistic regression of the outcome on the logit of the risk: below 1, high risks are too high
    and low ones too low.  The intercept is that of such a regression whose slope is held at 1: above 0, risks are too
    low on the whole.

    Parameters
    ----------
    positive, risk
        (n_lesions,) bool, and float in 0…1.
    drawn
        (n_lesions, n_draws) float: how often each draw holds each lesion.

    Returns
    -------
    values
        Slope and intercept.  NaN where there is no finite one: all lesions of one kind, or, for the slope, risks that
        separate the two kinds.
    draws
        Those of each draw, (n_draws,), by one Newton step from the values (a one-step bootstrap: Shao and Tu, The
        Jackknife and Bootstrap, 1995, section 5.4), which needs no regression for each draw.
    """
    logit = special.logit(np.clip(risk, LEAST_RISK, 1 - LEAST_RISK))
    nothing = np.full(drawn.shape[1], np.nan)
    if positive.all() or not positive.any():
        return (np.nan, np.nan), (nothing, nothing)

    def excess(intercept):
        return special.expit(intercept + logit).sum() - positive.sum()

    widest = -2 * special.logit(LEAST_RISK)
    intercept = optimize.brentq(excess, -widest, widest)
    (intercept_draws,) = _newton_step(np.ones((1, len(logit))), positive, special.expit(intercept + logit), drawn)
    separated = logit[positive].min() >= logit[~positive].max() or logit[positive].max() <= logit[~positive].min()
    if separated:
        return (np.nan, intercept), (nothing, intercept + intercept_draws)
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-8).fit(logit[:, None], positive)
    slope, fitted = float(model.coef_[0, 0]), model.predict_proba(logit[:, None])[:, 1]
    step = _newton_step(np.stack([np.ones_like(logit), logit]), positive, fitted, drawn)
    return (slope, intercept), (slope + step[1], intercept + intercept_draws)


def _newton_step(columns, positive, fitted, drawn):
    """Return the step of a logistic regression's coefficients from the fit of all lesions towards that of each draw.

    Parameters
    ----------
    columns : (n_coefficients, n_lesions) array
    positive, fitted : (n_lesions,) arrays
    drawn : (n_lesions, n_draws) array

    Returns
    -------
    (n_coefficients, n_draws) array
    """
    size = len(columns)
    slopes = columns * (positive - fitted)
    curvatures = (columns[:, None] * columns * fitted * (1 - fitted)).reshape(size**2, -1)
    with uncertainty.one_thread():
        sums = np.concatenate([slopes, curvatures]).astype(np.float32) @ drawn
    hessian = sums[size:].T.reshape(-1, size, size).astype(float)
    return np.linalg.solve(hessian, sums[:size].T[..., None].astype(float))[..., 0].T


def risk_bins(predictions: pd.DataFrame, strategy: str, backbone: str, n_boot: int = N_BOOT) -> pd.DataFrame:
    """Compare the probability of melanoma with the share of melanomas, bin by bin, over the test lesions of all seeds.

    Parameters
    ----------
    predictions, strategy, backbone, n_boot
        See `risk_table`.

    Returns
    -------
    pandas.DataFrame
        Columns `RISK_BIN_COLUMNS`, one row per bin between `EDGES` (each holds its lower edge): `risk`, the mean in it
        (empty in an empty bin), `observed`, the share of melanomas in it, with its interval, `n_lesions` (mean over the
        seeds), and for each of `OUTCOMES` the share of such lesions that lies in the bin.
    """
    tables = []
    for labels, part in configurations(predictions, strategy=strategy, backbone=backbone):
        lesions = lesion_scores(part)
        index, weights = uncertainty.draw_lesions(lesions, n_boot)
        risk, positive = lesions["melanoma_score"].to_numpy(), lesions["melanoma"].to_numpy(float)
        inside = (
            np.clip(np.searchsorted(EDGES, risk, "right") - 1, 0, len(EDGES) - 2) == np.arange(len(EDGES) - 1)[:, None]
        )
        with uncertainty.one_thread(), np.errstate(invalid="ignore"):
            drawn = [(inside * of).astype(np.float32) @ weights[index] for of in (positive, np.ones_like(risk))]
            n_rows, shares = inside.sum(1), drawn[0] / drawn[1]
            table = {"risk": inside @ risk / n_rows, "observed": inside @ positive / n_rows}
        n_lesions = [len(np.unique(index[of_bin])) for of_bin in inside]
        ends = [uncertainty.interval("share", *each) for each in zip(table["observed"], shares, n_lesions, strict=True)]
        table |= {"ci_low": [low for low, _ in ends], "ci_high": [high for _, high in ends]}
        table |= {"risk_low": EDGES[:-1], "risk_high": EDGES[1:], "n_lesions": n_rows / lesions["seed"].nunique()}
        for outcome, of in OUTCOMES.items():
            with np.errstate(invalid="ignore"):
                table[outcome] = inside @ lesions["dx"].isin(of).to_numpy(float) / lesions["dx"].isin(of).sum()
        tables.append(pd.DataFrame({**labels, **table}))
    return pd.concat(tables, ignore_index=True)[RISK_BIN_COLUMNS]
