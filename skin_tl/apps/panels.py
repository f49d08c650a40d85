"""Panels: what the notebook 4_explore shows and lets one click, made of ipywidgets.

Takes the tables of `skin_tl.apps.explore`; gives an `Explorer`, whose methods return one panel each.  The panels share
what is chosen: another head, cell or image changes all of them.  Every number comes from `skin_tl.apps.explore`, every
word from ``labels.yaml``; ``panels.html.j2`` makes HTML of them and escapes whatever comes from the metadata.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets
import numpy as np
from matplotlib.colors import to_hex, to_rgb

from skin_tl.apps import explore, studies
from skin_tl.apps import panel_parts as parts
from skin_tl.errors import SkinTLError
from skin_tl.evaluation.predictions import where
from skin_tl.files import ROOT
from skin_tl.reporting import figures
from skin_tl.reporting.drawing import DIAGNOSES, INK, backbone_name
from skin_tl.reporting.texts import Labels
from skin_tl.schema import SENSITIVITY, TUNED

if TYPE_CHECKING:
    import pandas as pd

    from skin_tl.apps.prediction import Predictions

PAGE = 12
"""Images of a cell shown at a time."""


class Explorer:
    """Panels to look at the finished runs of a study.

    Parameters
    ----------
    study
        A name below ``runs/``, or the path of a ``study.json``.  Where a study on drawn images has no finished run,
        two backbones are trained first (`skin_tl.apps.studies.quick_run`).
    output
        Folder of the runs made by hand.
    language
        A folder below ``report/text/``.
    root
        Folder that holds ``runs/``.

    Attributes
    ----------
    found : skin_tl.apps.studies.Runs
    choice : dict
        The chosen head, a value for each of `skin_tl.apps.explore.CHOICE`.
    rows : pandas.DataFrame
        Its test images, from `skin_tl.apps.explore.head_table`.
    cell : tuple of str
        The chosen cell of its confusion matrix: true and predicted diagnosis.
    image : str or None
        The chosen image.

    Raises
    ------
    SkinTLError
        If the study has no finished run and cannot be run quickly.
    """

    def __init__(
        self, study: str = "demo", output: str | Path = "runs/interactive", language: str = "en", root: Path = ROOT
    ) -> None:
        self.labels, self.root = Labels(language), root
        self.cell = ("", "")
        self.image: str | None = None
        self._on_page: list[str] = []
        folder = studies.quick_run(study, output, root)
        folders = studies.finished_studies(root)
        known = [name for name, path in folders.items() if path == folder]
        self.folders = folders if known else {folder.name: folder} | folders
        self._html = self._macros()
        self._filling = False
        self._build()
        self._filling, self._study.value = True, known[0] if known else folder.name
        self._read(folder)

    def _word(self, key: str, **fields: Any) -> str:
        return self.labels(f"explore.{key}", **fields)

    def _macros(self) -> Any:
        """Return the macros of the template, which take their words and pictures from here."""
        return parts.macros(
            {
                "word": self._word,
                "label": self.labels,
                "known": self.labels.known,
                "number": self.labels.number,
                "name": self._name,
                "colours": DIAGNOSES,
                "source": lambda image_id: explore.png(self._pictures[image_id]),
                "caption": lambda image_id: self.labels(
                    "caption.example", diagnosis=self.found.metadata.loc[image_id, "dx"], image=image_id
                ),
            }
        )

    # The panels ---------------------------------------------------------------------------------------------------

    def choose(self) -> widgets.VBox:
        """Return the panel that chooses study, strategy, backbone, split and seed."""
        return parts.panel(widgets.HTML(self._html.style()), parts.row(*self._choices.values()), self._summary)

    def matrix(self) -> widgets.VBox:
        """Return the confusion matrix, whose cells can be clicked, and the images of the chosen cell."""
        return parts.panel(self._matrix, self._shown, parts.row(self._order, self._before, self._after), self._cards)

    def lesion(self) -> widgets.VBox:
        """Return the panel of the chosen image: its lesion, its siblings and the predictions of two backbones."""
        return parts.panel(self._picture, parts.row(*self._pair), self._comparison)

    def nearest(self) -> widgets.VBox:
        """Return the panel with the training lesions nearest to the chosen image, in the chosen backbone's features."""
        return parts.panel(parts.row(self._find), self._neighbours)

    def threshold(self) -> widgets.VBox:
        """Return the panel that moves the threshold on the probability of melanoma."""
        return parts.panel(parts.row(self._slider, self._of_validation), self._decision)

    def own_image(self) -> widgets.VBox:
        """Return the panel that predicts an image of one's own, uploaded or named by its path."""
        return parts.panel(parts.row(self._upload, self._path, self._predict), self._own)

    # How they are made --------------------------------------------------------------------------------------------

    def _build(self) -> None:
        self._choices = {
            name: parts.dropdown(self._word(name), f"skin-{name}", layout={"width": "auto", "min_width": "180px"})
            for name in ("study", "strategy", "backbone", "split", "seed")
        }
        self._study = self._choices["study"]
        self._study.options = list(self.folders)
        for place, (name, dropdown) in enumerate(self._choices.items()):
            dropdown.observe(self._open if name == "study" else self._chosen(place), "value")
        self._summary, self._shown = widgets.HTML(), widgets.HTML()
        self._picture, self._comparison = parts.html("skin-lesion"), parts.html("skin-comparison")
        self._neighbours, self._decision = parts.html("skin-neighbours"), parts.html("skin-decision")
        grid, self._buttons = parts.matrix(self.show)
        self._matrix = widgets.VBox([widgets.HTML(self._html.soft(self._word("matrix"))), grid])
        self._build_cards()
        self._pair = [parts.dropdown(self._word(name)) for name in ("first", "second")]
        for dropdown in self._pair:
            dropdown.observe(lambda _: self._compare(), "value")
        self._find = parts.button(self._word("find"), self.find_nearest, "skin-find")
        self._slider = widgets.FloatLogSlider(
            value=0.5, min=-4, max=0, step=0.01, readout_format=".3r", description=self._word("threshold")
        )
        self._slider.layout.width, self._slider.style.description_width = "460px", "initial"
        self._slider.add_class("skin-threshold")
        self._slider.observe(lambda _: None if self._filling else self.flag_from(self._slider.value), "value")
        self._of_validation = parts.button("", lambda: self.flag_from(self._chosen_threshold), "skin-validation")
        self._upload = widgets.FileUpload(accept="image/*", description=self._word("upload"), layout={"width": "auto"})
        self._upload.observe(lambda _: self._predict_upload(), "value")
        self._path = widgets.Text(placeholder=self._word("path"), layout={"width": "320px"})
        self._path.add_class("skin-path")
        self._predict = parts.button(
            self._word("predict"), lambda: self.predict(self._path.value.strip()), "skin-predict"
        )
        self._own = parts.html("skin-own")
        self._own.value = self._html.warning(self._word("not_a_diagnosis"))

    def _build_cards(self) -> None:
        orders = [(self._word(name), name) for name in explore.SORTS]
        self._order = parts.dropdown(self._word("order"), "skin-order", options=orders)
        self._order.observe(lambda _: self.show(*self.cell), "value")
        self._before = parts.button(self._word("previous"), lambda: self._turn(-1))
        self._after = parts.button(self._word("next"), lambda: self._turn(1))
        self._slots = [
            widgets.VBox([widgets.HTML(), parts.button(self._word("look"), partial(self._look_at, place))])
            for place in range(PAGE)
        ]
        layout = {"grid_template_columns": "repeat(auto-fill, minmax(270px, 1fr))", "grid_gap": "14px"}
        self._cards = widgets.GridBox([], layout=layout)
        self._cards.add_class("skin-cards")

    # What is chosen -----------------------------------------------------------------------------------------------

    def _open(self, _: object) -> None:
        if not self._filling:
            with self._saying(self._summary):
                self._read(self.folders[self._study.value])

    def _read(self, folder: Path) -> None:
        """Read the runs of a study and show its first head."""
        found = studies.open_runs(folder)
        pictures = explore.pictures_of(found.images)
        # All of it can be read: from here on the panels are about this study.
        self.found, self._pictures = found, pictures
        self._features: dict[tuple, np.ndarray] = {}
        self._fill(1)

    def _chosen(self, place: int) -> Callable[[object], None]:
        return lambda _: None if self._filling else self._fill(place + 1)

    def _fill(self, first: int) -> None:
        """Offer what there is for the choices from the `first` on, keeping what still stands; then show it."""
        self._filling = True
        chosen: dict[str, Any] = {}
        for place, (name, dropdown) in enumerate(self._choices.items()):
            if name == "study":
                continue
            if place >= first:
                offered, before = self._offer(name, chosen), dropdown.value
                dropdown.options = offered
                values = [value for _, value in offered]
                dropdown.value = before if before in values else values[0]
            if name == "split":
                chosen["split_policy"], chosen["preprocessing"] = dropdown.value
            else:
                chosen[name] = dropdown.value
        self._filling, self.choice = False, chosen
        self._show_head()

    def _offer(self, name: str, chosen: Mapping[str, Any]) -> list[tuple[str, Any]]:
        """Return what a dropdown offers after what is chosen before it, (words, value) each."""
        table = self.found.predictions
        if name == "strategy":
            return [(self.labels.known("strategy", value), value) for value in explore.options(table, name)]
        if name == "backbone":
            return [(self._name(value), value) for value in explore.options(table, name, **chosen)]
        if name == "seed":
            return [(str(value), value) for value in explore.options(table, name, **chosen)]
        offered = []
        for policy in explore.options(table, "split_policy", **chosen):
            for scaling in explore.options(table, "preprocessing", split_policy=policy, **chosen):
                words = self.labels.known("split_policy", policy), self.labels.known("preprocessing", scaling)
                offered.append((", ".join(words), (policy, scaling)))
        return sorted(offered, key=lambda pair: (pair[1][0] != "lesion", pair[1][1] != "native"))

    def _name(self, backbone: str) -> str:
        return backbone_name(backbone, self.labels)

    def _show_head(self) -> None:
        self.rows = explore.head_table(self.found.predictions, self.choice)
        self.counts, scores = explore.confusion(self.rows), explore.head_scores(self.rows)
        number = self.labels.number
        lesions = number(self.rows["lesion_id"].nunique(), ",d")
        line = self._word("summary", images=number(len(self.rows), ",d"), lesions=lesions)
        shown = [f"{self.labels(f'metric.{name}')} {number(value, '.3f')}" for name, value in scores.items()]
        self._summary.value = self._html.summary(line, ", ".join(shown), self._notes())
        self._paint()
        self._offer_pair()
        self._prepare_threshold()
        self.show(*(self.cell if any(self.cell) and self.counts.loc[self.cell] else explore.worst_cell(self.counts)))

    def _notes(self) -> list[str]:
        notes = {"synthetic": self.found.study.synthetic, "random_weights": self.found.random_weights}
        return [self._word(name) for name, present in notes.items() if present]

    # The confusion matrix -----------------------------------------------------------------------------------------

    def _paint(self) -> None:
        """Write the counts on the buttons; the colour is the share of the images with that diagnosis."""
        shares = self.counts.div(self.counts.sum(axis=1).replace(0, np.nan), axis=0).fillna(0)
        for (dx, predicted), button in self._buttons.items():
            count, share = int(self.counts.loc[dx, predicted]), shares.loc[dx, predicted]
            button.description = self.labels.number(count, ",d") if count else "·"
            button.tooltip = self._word("cell", dx=dx, predicted=predicted, images=self.labels.number(count, ",d"))
            ground = np.array(to_rgb("#ffffff")) * (1 - share) + np.array(to_rgb(DIAGNOSES["nv"])) * share
            button.style.button_color = to_hex(ground)
            button.style.text_color = "#ffffff" if share > 0.55 else INK
            button.disabled = not count

    def show(self, dx: str, predicted: str) -> None:
        """Show the images of a cell of the confusion matrix, the first page of them, and look at the first."""
        if any(self.cell):
            self._buttons[self.cell].remove_class("skin-here")
        self.cell, self._first = (dx, predicted), 0
        self._buttons[self.cell].add_class("skin-here")
        self._in_cell = explore.in_cell(self.rows, dx, predicted, self._order.value)
        self._show_page()
        self.look(self._in_cell.index[0] if len(self._in_cell) else None)

    def _turn(self, pages: int) -> None:
        self._first = min(max(self._first + pages * PAGE, 0), max(len(self._in_cell) - 1, 0) // PAGE * PAGE)
        self._show_page()

    def _show_page(self) -> None:
        page = self._in_cell.iloc[self._first : self._first + PAGE]
        self._on_page = page.index.tolist()
        for slot, (image_id, row) in zip(self._slots, page.iterrows(), strict=False):
            given = (row, self._about(image_id, row), parts.probabilities(row), self._siblings(image_id))
            slot.children[0].value = self._html.card(image_id, *given)
        self._cards.children = self._slots[: len(page)]
        count = self.labels.number(len(self._in_cell), ",d")
        line = self._word("cell", dx=self.cell[0], predicted=self.cell[1], images=count)
        if len(page) < len(self._in_cell):
            line += " · " + self._word("page", first=self._first + 1, last=self._first + len(page))
        self._shown.value = self._html.bold(line)
        self._before.disabled = self._first == 0
        self._after.disabled = self._first + PAGE >= len(self._in_cell)

    def _about(self, image_id: str, row: pd.Series) -> tuple[str, str]:
        """Return the metadata of an image in words, and the head's prediction in numbers."""
        about, known, number = self.found.metadata.loc[image_id], self.labels.known, self.labels.number
        age = self._word("age", age=number(about["age"], ".0f")) if about["age"] == about["age"] else None
        words = [known("sex", about["sex"]), age]
        words += [known(trait, about[trait]) for trait in ("localization", "dx_type")]
        columns = [name for name in ("confidence", "loss", "disagreement") if row[name] == row[name]]
        values = [f"{self._word(f'value_{name}')} {number(row[name], '.2f')}" for name in columns]
        return ", ".join(word for word in words if word), " · ".join(values)

    def _siblings(self, image_id: str) -> list[tuple[str, str, str]]:
        table = explore.siblings(self.found, image_id, self.choice)
        return [(other, self.labels.known("subset", subset), other) for other, subset in table.to_numpy()]

    # One image ----------------------------------------------------------------------------------------------------

    def look(self, image_id: str | None) -> None:
        """Look closer at an image of the test subset; None where there is none to look at."""
        self.image = image_id
        if image_id is None:
            self._picture.value = self._html.soft(self._word("nothing"))
            self._comparison.value = self._neighbours.value = ""
            return
        row = self.rows.loc[image_id]
        given = (row, self._about(image_id, row), self._siblings(image_id))
        self._picture.value = self._html.looked_at(image_id, *given)
        self._compare()
        self._neighbours.value = ""
        if self._key() in self._features:
            self.find_nearest()

    def _look_at(self, place: int) -> None:
        self.look(self._on_page[place])

    def _offer_pair(self) -> None:
        """Offer the backbones to compare: the chosen one and, to begin with, the next."""
        names = explore.options(self.found.predictions, "backbone", strategy=self.choice["strategy"])
        others = [name for name in names if name != self.choice["backbone"]]
        self._filling = True
        for dropdown, value in zip(self._pair, (self.choice["backbone"], (others or names)[0]), strict=True):
            dropdown.options = [(self._name(name), name) for name in names]
            dropdown.value = value
        self._filling = False

    def _compare(self) -> None:
        if self._filling or self.image is None:
            return
        names = list(dict.fromkeys(dropdown.value for dropdown in self._pair))
        table = explore.compare(self.found.predictions, self.image, self.choice, names)
        columns = [(name, table[name].idxmax(), table[name].to_dict()) for name in table.columns]
        self._comparison.value = self._html.comparison(columns, self.rows.loc[self.image, "dx"])

    def _key(self) -> tuple:
        """Return what identifies the features of a network: heads share their backbone's."""
        alone = ("split_policy", "seed") if self.choice["strategy"] in TUNED else ()
        return tuple(self.choice[name] for name in ("strategy", "backbone", "preprocessing", *alone))

    def find_nearest(self) -> None:
        """Show the training lesions nearest to the chosen image, by the features of the chosen backbone."""
        if self.image is None:
            return
        with self._saying(self._neighbours):
            if self._key() not in self._features:
                self._neighbours.value = self._html.soft(self._word("computing"))
                self._features[self._key()] = explore.features_of_run(self.found, self.choice)
            features = self._features[self._key()]
            table = explore.nearest_lesions(self.found, features, self.image, self.choice)
            line = self._word("nearest", backbone=self._name(self.choice["backbone"]), image=self.image)
            second = table["lesion_id"].mask(table["same_lesion"], self._word("same_lesion"))
            self._neighbours.value = self._html.nearest(line, self._near(table, second))

    def _near(self, table: pd.DataFrame, second: pd.Series) -> list[tuple[str, str, str]]:
        """Return known lesions as pictures with two lines each: diagnosis and distance, and a second one."""
        words = [self._word("distance", distance=self.labels.number(value, ".2g")) for value in table["distance"]]
        first = [f"{dx} · {distance}" for dx, distance in zip(table["dx"], words, strict=True)]
        return list(zip(table["image_id"], first, second, strict=True))

    @contextlib.contextmanager
    def _saying(self, place: widgets.HTML) -> Iterator[None]:
        """Show an error in a panel, where a click would otherwise have no effect."""
        try:
            yield
        except SkinTLError as error:
            place.value = self._html.alert(str(error))

    # The threshold ------------------------------------------------------------------------------------------------

    def _prepare_threshold(self) -> None:
        """Take the chosen head's lesions and its validation subset's threshold."""
        self._lesions = explore.lesions_of(self.found.predictions, self.choice)
        self._curve = parts.roc_curve(self._lesions, self.labels)
        self._chosen_threshold = explore.threshold_of_validation(self.found.predictions, self.choice)
        known = bool(np.isfinite(self._chosen_threshold))
        if known and self._chosen_threshold > 0:
            self._slider.min = min(-4, np.floor(np.log10(self._chosen_threshold)))
        self._of_validation.disabled = not known
        self._of_validation.description = self._word(
            "of_validation",
            sensitivity=self.labels.number(SENSITIVITY, ".0%"),
            threshold=self._written(self._chosen_threshold),
        )
        self.flag_from(self._chosen_threshold if known else 0.5)

    def _written(self, threshold: float) -> str:
        """Write a threshold; on the slider's logarithmic scale the digits that count are the first three."""
        digits = 3 if not threshold > 0 else min(max(3, 2 - int(np.floor(np.log10(threshold)))), 8)
        return self.labels.number(threshold, f".{digits}f")

    def flag_from(self, threshold: float) -> None:
        """Show what is found and missed when lesions are flagged from a probability of melanoma on, in 0…1."""
        self._filling, self.flagged_from = True, threshold
        self._slider.value = min(max(threshold, 10**self._slider.min), 1)
        self._filling = False
        found = explore.decide(self._lesions, threshold)
        both = [
            (
                self._word(what, n=self.labels.number(found[flagged] + found[cleared], ",d")),
                found[flagged],
                found[cleared],
            )
            for what, flagged, cleared in (("melanomas", "found", "missed"), ("others", "flagged_others", "cleared"))
        ]
        by_diagnosis = [(self.labels(f"diagnosis.{dx}"), *row) for dx, *row in found["by_diagnosis"].itertuples()]
        curve = parts.with_point(self._curve, 1 - found["specificity"], found["sensitivity"])
        self._decision.value = self._html.decision(found, self._written(threshold), both, by_diagnosis, curve)

    # An image of one's own ----------------------------------------------------------------------------------------

    def _predict_upload(self) -> None:
        """Predict the file that was uploaded; it is kept no longer than that takes."""
        for file in self._upload.value:
            with tempfile.TemporaryDirectory() as folder:
                name = Path(file["name"]).name
                (Path(folder) / name).write_bytes(file["content"])
                self.predict(name, Path(folder))

    def predict(self, path: str, base: Path | None = None) -> None:
        """Show the predictions of an image file by every backbone of the chosen study.

        Parameters
        ----------
        path
            Relative to `base`, or to the project's folder.
        base
        """
        from skin_tl.apps.prediction import predict_images

        with self._saying(self._own):
            if not path:
                raise SkinTLError(self._word("no_path"))
            self._own.value = self._html.soft(self._word("predicting", image=path))
            found = predict_images(
                [Path(path).expanduser()], self.found.folder / "study.json", explain=True, base=base or self.root
            )
            self._own.value = self._predicted(found, found.images[0])

    def _predicted(self, found: Predictions, image: str) -> str:
        """Return the predictions of an image by the runs, as HTML."""
        table = found.table[found.table["image"] == image]
        notes = [self._word("not_a_diagnosis"), *self._notes()]
        if table["unlike"].any():
            names = ", ".join(map(self._name, table.loc[table["unlike"], "backbone"].drop_duplicates()))
            notes.insert(0, self._word("unlike", backbones=names))
        for subset, image_id in table.loc[table["seen"] != "", ["seen", "seen_as"]].drop_duplicates().to_numpy():
            notes.insert(0, self._word(f"seen_{subset}", image=image_id))
        if found.left_out:
            notes.insert(0, self._word("left_out", reason=found.left_out))
        pixels, columns = found.pixels[image], []
        for row in table.to_dict("records"):
            of_run = {name: row[name] for name in ("image", "strategy", "backbone")}
            near = where(found.neighbours, **of_run)
            heat = figures.under_map(pixels, found.maps[tuple(of_run.values())])
            columns.append((row, explore.png(heat), parts.probabilities(row), self._near(near, near["lesion_id"])))
        return self._html.own(image, Path(image).name, explore.png(pixels), notes, columns)
