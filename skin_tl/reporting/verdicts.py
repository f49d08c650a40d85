"""Verdicts: what the numbers of a study mean, each decided once for the texts of all languages.

In: facts, and what is selected of a study.  Out: short words by which a template chooses among sentences, and the names
of the backbones that each holds for.  A difference is *open* where it is not statistically significant.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from skin_tl.evaluation.study_files import Setup
from skin_tl.schema import CLASSES, CONFIDENCES

if TYPE_CHECKING:
    from skin_tl.reporting.selection import Selection


class Verdicts:
    """What templates call ``verdict``; see the properties and methods."""

    def __init__(self, report: Selection):
        self._report, self._facts = report, report.facts
        self._ahead = f"best.{report.main.key}.macro_f1"

    def _value(self, key: str) -> Any:
        return self._facts[key].value

    # What was trained?

    @property
    def start(self) -> str:
        """What the networks of the main set-up start from: from_scratch, random_weights or a transferring strategy."""
        strategy = self._report.main.strategy
        return "random_weights" if self._report.random_weights and strategy != "from_scratch" else strategy

    @property
    def weights(self) -> str:
        """Where the weights of the backbones come from: imagenet, asked or absent (random both), or none."""
        study = self._report.study
        if self._report.random_weights:
            return "asked" if study.weights == "random" else "absent"
        return "none" if study.strategies == ["from_scratch"] else "imagenet"

    # Is knowledge transferred?

    @cached_property
    def control(self) -> dict[str, Any]:
        """The gain of pretrained over random weights in frozen backbones, by macro F1.

        Of ``names`` (the backbones with this control, none in a study without) ``of`` gives the verdict by name:
        better, worse or open; ``better`` names the first.  ``all`` is all (better with each backbone), some, open
        (with each) or none.  ``key`` begins the facts' keys.
        """
        policy = self._report.main.split_policy
        table = next((part for (_, of), part in self._report.effects("weights") if of == policy), None)
        of = {}
        for row in [] if table is None else table.to_dict("records"):
            of[row["backbone"]] = "open" if not row["real"] else "better" if row["difference"] > 0 else "worse"
        better, found = [name for name in of if of[name] == "better"], set(of.values())
        whole = "some" if better else "open" if found == {"open"} else "none"
        whole = "all" if found == {"better"} else whole
        key = f"effect.weights.all.feature_extraction.{policy}."
        return {"key": key, "names": list(of), "of": of, "better": better, "all": whole}

    @cached_property
    def scratch(self) -> str:
        """How the same network does that is trained from scratch: better, open, worse, or none where there is none."""
        key = self.scratch_key
        if f"{key}.difference" not in self._facts:
            return "none"
        if not self._value(f"{key}.real"):
            return "open"
        return "worse" if self._value(f"{key}.difference") > 0 else "better"

    @property
    def scratch_key(self) -> str:
        """The key of the main strategy less training from scratch."""
        main = self._report.main
        of_both = f"{main.strategy}/from_scratch.{main.split_policy}.{main.preprocessing}"
        return f"gain.{of_both}.{self._report.best(main)}.macro_f1"

    @property
    def baseline(self) -> str:
        """How the selected backbone does against the best baseline by macro F1; see `against_baseline`."""
        return self.against_baseline("macro_f1")

    def against_baseline(self, metric: str) -> str:
        """Return how the selected backbone does against the best baseline: above, overlap (of intervals) or below."""
        key = f"best.{self._report.main.key}.{metric}"
        if self._value(f"{key}.above_baseline"):
            return "above"
        return "overlap" if self._value(f"{key}.best_value") > self._value(f"{key}.baseline_value") else "below"

    @cached_property
    def transfer(self) -> str:
        """The answer to whether knowledge can be transferred, by what decides it.

        random_weights or from_scratch (nothing was transferred), scratch_better, scratch_open or scratch_worse (against
        training from scratch, where the study has it), control (with random weights), or what `baseline` says.
        """
        if self._report.random_weights:
            return "random_weights"
        if self._report.main.strategy == "from_scratch":
            return "from_scratch"
        if self.scratch != "none":
            return f"scratch_{self.scratch}"
        return "control" if self.control["names"] else self.baseline

    @property
    def reply(self) -> str:
        """The answer in words, a label below `reply`: `transfer`, or what a control says."""
        return f"control_{self.control['all']}" if self.transfer == "control" else self.transfer

    @property
    def answer(self) -> str:
        """Whether pretraining helps the selected backbone: yes, open, no, or untested."""
        if self.transfer == "control":
            return {"better": "yes", "worse": "no"}.get(
                self.control["of"][self._report.best(self._report.main)], "open"
            )
        yes_or_no = {"scratch_worse": "yes", "above": "yes", "scratch_better": "no", "below": "no"}
        untested = dict.fromkeys(["random_weights", "from_scratch"], "untested")
        return (yes_or_no | untested).get(self.reply, "open")

    @property
    def rivals(self) -> list[dict[str, Any]]:
        """The main strategy against each other one (training from scratch first), for the selected backbone.

        See `gains`.
        """
        main = self._report.main
        ours, scratch = (self._report.labels(f"strategy.{name}") for name in (main.strategy, "from_scratch"))
        gains = [] if self._report.random_weights else self.gains(self._report.best(main))
        gains = [gain for gain in gains if ours in (gain["a"], gain["b"])]
        return sorted(gains, key=lambda gain: scratch not in (gain["a"], gain["b"]))

    @property
    def transferred(self) -> bool:
        """Whether it is shown that pretrained weights carry knowledge over."""
        return bool(self.control["better"]) if self.control["names"] else self.baseline == "above"

    # Differences

    def lead(self, ahead: str) -> str:
        """Return how a set-up's selected backbone compares with the next: ahead, behind or open; `ahead` is its key."""
        if self._value(f"{ahead}.real"):
            return "ahead"
        return "behind" if self._value(f"{ahead}.behind") else "open"

    def pairs(self, setup: Setup) -> list[dict[str, Any]]:
        """Return the compared pairs of a set-up by macro F1: better, worse, key (of its facts), real, and lead (of the
        selected backbone and the one it is compared with first)."""
        table = setup.of(self._report.tables["comparisons.csv"])
        rows = []
        for row in table[(table["metric"] == "macro_f1") & (table["dataset"] == "internal")].to_dict("records"):
            a, b = row["backbone_a"], row["backbone_b"]
            better, worse = (a, b) if row["difference"] >= 0 else (b, a)
            key = f"pair.{setup.key}.{a}.{b}.macro_f1"
            lead = {a, b} == {self._value(f"best.{setup.key}.macro_f1.{name}") for name in ("best", "second")}
            rows.append({"better": better, "worse": worse, "key": key, "real": bool(row["real"]), "lead": lead})
        return rows

    def significant_pairs(self, setup: Setup) -> list[tuple[str, str]]:
        """Return the pairs (better, worse) of a set-up that differ statistically significantly in macro F1."""
        return [(pair["better"], pair["worse"]) for pair in self.pairs(setup) if pair["real"]]

    @property
    def others(self) -> dict[str, list[str]]:
        """Which backbones the selected one is ahead of, behind or open against, by macro F1; without the second."""
        main, found = self._report.main, dict[str, list[str]](ahead=[], behind=[], open=[])
        best, second = self._report.best(main), self._value(f"{self._ahead}.second")
        for pair in self.pairs(main):
            names = {pair["better"], pair["worse"]}
            if best in names and second not in names:
                kind = "open" if not pair["real"] else "ahead" if pair["better"] == best else "behind"
                found[kind] += names - {best}
        return found

    @property
    def choice(self) -> tuple[str, list[str]]:
        """How the selected backbone compares with all others by macro F1, and with which of them.

        behind (of these), open (against these), or ahead (of these, which are all).
        """
        found = {kind: list(names) for kind, names in self.others.items()}
        found[self.lead(self._ahead)].insert(0, self._value(f"{self._ahead}.second"))
        return next((kind, found[kind]) for kind in ("behind", "open", "ahead") if found[kind])

    def gains(self, backbone: str) -> list[dict[str, Any]]:
        """Return the compared pairs of strategies: a, b (labels), key (facts of a less b) and verdict (real, open)."""
        table, main = self._report.tables["effects.csv"], self._report.main
        keep = (table["column"] == "strategy") & (table["metric"] == "macro_f1") & (table["backbone"] == backbone)
        keep &= (table["split_policy"] == main.split_policy) & (table["preprocessing"] == main.preprocessing)
        rows = []
        for row in table[keep].to_dict("records"):
            names = {side: self._report.labels(f"strategy.{row[side]}") for side in "ab"}
            key = f"gain.{Setup(row['strategy'], main.split_policy, main.preprocessing).key}.{backbone}.macro_f1"
            rows.append(names | {"key": key, "verdict": "real" if row["real"] else "open"})
        return rows

    def effects(self, key: str, names: Sequence[str]) -> tuple[list[str], list[str]]:
        """Return for which backbones an effect on macro F1 is real and for which open; `key` begins the facts' keys."""
        real = [name for name in names if self._value(f"{key}{name}.macro_f1.real")]
        return real, [name for name in names if name not in real]

    def moved(self, key: str, names: Sequence[str]) -> list[str]:
        """Return the backbones whose rank differs between two set-ups."""
        ranks = {name: [self._value(f"{key}{name}.macro_f1.rank_{end}") for end in "ab"] for name in names}
        return [name for name, (a, b) in ranks.items() if a != b]

    def interval(self, key: str, than: float = 0) -> str:
        """Return where an interval lies: above `than`, below it, or open."""
        if self._value(f"{key}.low") > than:
            return "above"
        return "below" if self._value(f"{key}.high") < than else "open"

    def changed(self) -> dict[str, Any]:
        """Return what changes of the images do to the selected backbone.

        ``key`` begins the facts' keys; ``worst`` and ``mildest`` are the corruptions that lower macro F1 most and
        least, mean over the severities; ``harmful`` and ``alarming`` are the artefacts that lower macro F1, or raise
        the probability of melanoma of other lesions, statistically significantly; ``masked`` says which masks lower
        macro F1 so: ``both``, that of the ``lesion`` alone, or ``neither`` where the one of the lesion does not.
        """
        best = self._report.best(self._report.main)
        key, table = f"robustness.{self._report.main.strategy}.{best}.", self._report.changed(best)
        graded = table[(table["kind"] == "corruption") & (table["severity"] == 0) & (table["metric"] == "macro_f1")]
        order = graded.sort_values("difference")["change"].tolist()
        drawn = table.loc[table["kind"] == "artefact", "change"].unique()

        def moved(metric: str, where: str) -> list[str]:
            return [name for name in drawn if self.interval(f"{key}{name}.0.{metric}") == where]

        found: dict[str, Any] = {"harmful": moved("macro_f1", "below"), "alarming": moved("other_risk", "above")}
        lesion, around = (
            self.interval(f"{key}{name}.0.macro_f1") == "below" for name in ("no_lesion", "no_surroundings")
        )
        found["masked"] = "neither" if not lesion else "both" if around else "lesion"
        return {"key": key, "worst": order[0], "mildest": order[-1]} | found

    def abstaining(self) -> dict[str, list[str]]:
        """Return by which scores abstaining is better or worse than by the largest probability, or neither (open).

        For the selected backbone on its own test subset, by AUGRC.
        """
        main, found = self._report.main, dict[str, list[str]](better=[], worse=[], open=[])
        names = {"below": "better", "above": "worse", "open": "open"}
        for score in CONFIDENCES[1:]:
            key = f"abstention.internal.{main.key}.{self._report.best(main)}.{score}.difference"
            if key in self._facts:
                found[names[self.interval(key)]].append(score)
        return found

    def coverage(self, dataset: str) -> dict[str, list[str]]:
        """Return for which diagnoses the coverage of prediction sets is below or above what it should be, or holds.

        For the selected backbone; a coverage holds if its interval includes the nominal one.
        """
        main, found = self._report.main, dict[str, list[str]](below=[], above=[], holds=[])
        for dx in CLASSES:
            key = f"sets.{dataset}.{main.key}.{self._report.best(main)}.{dx}.coverage.verdict"
            if key in self._facts:
                found[self._value(key)].append(dx)
        return found

    def needed(self, setup: Setup, backbone: str) -> str:
        """Return what it takes to reach training from scratch: trivial (nothing is reached), none, all or part."""
        scratch = next(curve for curve in self._report.curves if curve.strategy == "from_scratch").key
        score = f"score.{scratch}.{backbone}.macro_f1"
        if self._value(f"{score}.low") <= self._value(f"best.{scratch}.macro_f1.majority_value"):
            return "trivial"
        need = f"needed.{setup.key}.{backbone}"
        if f"{need}.n_lesions" not in self._facts:
            return "none"
        return "all" if self._value(f"{need}.train_fraction") == 1 else "part"

    @property
    def reachable(self) -> bool:
        """Whether training from scratch reaches more than a trivial score with any backbone."""
        return any(self.needed(self._report.main, name) != "trivial" for name in self._report.study.backbones)

    # What may mislead

    @cached_property
    def accuracy_overstates(self) -> bool:
        """Whether the selected backbone's accuracy is higher than its macro F1."""
        main = self._report.main
        accuracy = self._value(f"score.{main.key}.{self._report.best(main)}.accuracy")
        return accuracy > self._value(f"{self._ahead}.best_value")

    @cached_property
    def splits(self) -> dict[str, str]:
        """Keys of what further splits show, by backbone; none in a study with fewer than two of them."""
        keys = {name: f"other_splits.feature_extraction.{name}.macro_f1" for name in self._report.study.backbones}
        return {name: key for name, key in keys.items() if f"{key}.sd" in self._facts}

    @property
    def lead_proves_nothing(self) -> bool:
        """Whether, with each backbone, two random splits are often as far apart as the presentation's first two."""
        return all(self._value(f"{key}.share_as_far") > 0.05 for key in self.splits.values())

    @property
    def isolated(self) -> list[str]:
        """Which of the three flaws of the presentation's experiment this study measures on its own."""
        columns = set(self._report.tables["effects.csv"]["column"])
        measured = {"leakage": "arm" in columns, "scaling": "preprocessing" in columns}
        measured["test_subset"] = len(self._report.tables["other_splits.csv"]) > 0
        return [name for name, found in measured.items() if found]
