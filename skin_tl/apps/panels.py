"""Panels: what the notebook 4_explore shows and lets one click, made of ipywidgets.

Takes the tables of `skin_tl.apps.explore`; gives an `Explorer`, whose methods return one panel each.  The panels share
what is chosen: another head, cell or image changes all of them.  Every number comes from `skin_tl.apps.explore`, every
word from ``labels.yaml``, and whatever comes from the metadata is escaped.
"""

import contextlib
import re
import tempfile
from pathlib import Path

import ipywidgets as widgets
import numpy as np
from markupsafe import Markup
from matplotlib.colors import to_hex, to_rgb
from sklearn import metrics as skm

from skin_tl.apps import explore
from skin_tl.errors import SkinTLError
from skin_tl.files import ROOT
from skin_tl.reporting import figures
from skin_tl.reporting.drawing import DIAGNOSES, GRID, INK, SOFT, Drawing, backbone_name, themed, to_svg, write_numbers
from skin_tl.reporting.texts import Labels
from skin_tl.schema import CLASSES, SENSITIVITY, TUNED

PAGE = 12
"""Images of a cell shown at a time."""

STYLE = """<style>
.skin-tl { font-family: var(--jp-ui-font-family, sans-serif); color: var(--jp-ui-font-color1, #1f2933);
  line-height: 1.35; font-size: 13px; }
.skin-tl img { object-fit: fill; border-radius: 4px; display: block; }
.skin-tl figure { margin: 0; }
.skin-tl .soft { color: var(--jp-ui-font-color2, #52606d); }
.skin-tl .row { display: flex; flex-wrap: wrap; gap: 8px 24px; align-items: flex-start; }
.skin-tl .pictures { display: flex; flex-wrap: wrap; gap: 6px; margin: 2px 0 4px; }
.skin-tl .pictures figcaption { font-size: 11px; max-width: 130px; overflow-wrap: anywhere; }
.skin-tl .bars { display: grid; grid-template-columns: auto minmax(60px, 1fr) auto; gap: 1px 6px; font-size: 11.5px;
  align-items: center; margin-top: 3px; max-width: 260px; }
.skin-tl .bars b { font-weight: 600; }
.skin-tl .bar { height: 8px; border-radius: 2px; background: var(--jp-layout-color2, #e6eaee); overflow: hidden; }
.skin-tl .bar i { display: block; height: 100%; }
.skin-tl table { border-collapse: collapse; font-size: 13px; }
.skin-tl th, .skin-tl td { padding: 3px 10px; text-align: right; font-variant-numeric: tabular-nums;
  border-bottom: 1px solid var(--jp-border-color2, #d9dfe5); }
.skin-tl th:first-child { text-align: left; }
.skin-tl .big { font-size: 20px; font-weight: 600; }
.skin-tl .warn { border-left: 4px solid #d55e00; padding: 4px 10px; background: var(--jp-layout-color2, #f3f5f7); }
.skin-matrix .widget-button { font-size: 12.5px; font-variant-numeric: tabular-nums; }
.skin-matrix .skin-here { outline: 3px solid #d55e00; outline-offset: -3px; }
</style>"""


class Explorer:
    """Panels to look at the finished runs of a study.

    Parameters
    ----------
    study : str
        A name below ``runs/``, or the path of a ``study.json``.  Where a study on drawn images has no finished run,
        two backbones are trained first (`skin_tl.apps.explore.quick_run`).
    output : str or pathlib.Path
        Folder of the runs made by hand.
    language : str
        A folder below ``report/text/``.
    root : pathlib.Path, optional
        Folder that holds ``runs/``.

    Attributes
    ----------
    found : skin_tl.apps.explore.Runs
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

    def __init__(self, study="demo", output="runs/interactive", language="en", root=ROOT):
        self.labels, self.root = Labels(language), root
        folder = explore.quick_run(study, output, root)
        folders = explore.finished_studies(root)
        known = [name for name, path in folders.items() if path == folder]
        self.folders = folders if known else {folder.name: folder} | folders
        self._filling = False
        self._build()
        self._filling, self._study.value = True, known[0] if known else folder.name
        self._read(folder)

    def _word(self, key, **fields):
        return self.labels(f"explore.{key}", **fields)

    # The panels ---------------------------------------------------------------------------------------------------

    def choose(self):
        """Return the panel that chooses study, strategy, backbone, split and seed."""
        return self._panel(self._style, widgets.HBox(list(self._choices.values()), layout=_WRAP), self._summary)

    def matrix(self):
        """Return the confusion matrix, whose cells can be clicked, and the images of the chosen cell."""
        pages = widgets.HBox([self._order, self._before, self._after], layout=_WRAP)
        return self._panel(self._matrix, self._shown, pages, self._cards)

    def lesion(self):
        """Return the panel of the chosen image: its lesion, its siblings and what two backbones say of it."""
        return self._panel(self._picture, widgets.HBox([*self._pair], layout=_WRAP), self._comparison)

    def nearest(self):
        """Return the panel with the training lesions that look most like the chosen image to the chosen backbone."""
        return self._panel(widgets.HBox([self._find]), self._neighbours)

    def threshold(self):
        """Return the panel that moves the threshold on the probability of melanoma."""
        return self._panel(widgets.HBox([self._slider, self._of_validation], layout=_WRAP), self._decision)

    def own_image(self):
        """Return the panel that predicts an image of one's own, uploaded or named by its path."""
        asked = [self._upload, self._path, self._predict]
        return self._panel(widgets.HBox(asked, layout=_WRAP), self._own)

    def _panel(self, *children):
        panel = widgets.VBox(children)
        panel.add_class("skin-tl")
        return panel

    # How they are made --------------------------------------------------------------------------------------------

    def _build(self):
        self._style, self._summary = widgets.HTML(STYLE), widgets.HTML()
        self._choices = {
            name: widgets.Dropdown(
                description=self._word(name),
                style={"description_width": "initial"},
                layout={"width": "auto", "min_width": "180px"},
            )
            for name in ("study", "strategy", "backbone", "split", "seed")
        }
        self._study = self._choices["study"]
        self._study.options = list(self.folders)
        for place, (name, dropdown) in enumerate(self._choices.items()):
            dropdown.add_class(f"skin-{name}")
            dropdown.observe(self._open if name == "study" else self._chosen(place), "value")
        self._build_matrix()
        self._build_lesion()
        self._build_threshold()
        self._build_own()

    def _build_matrix(self):
        self._buttons, children = {}, [widgets.HTML()]
        children += [widgets.HTML(f"<b>{dx}</b>", layout={"margin": "0 auto"}) for dx in CLASSES]
        for dx in CLASSES:
            children.append(widgets.HTML(f"<b>{dx}</b>"))
            for predicted in CLASSES:
                button = widgets.Button(layout={"width": "auto", "height": "34px", "margin": "1px"})
                button.add_class(f"skin-cell-{dx}-{predicted}")
                button.on_click(lambda _, cell=(dx, predicted): self.show(*cell))
                self._buttons[dx, predicted] = button
                children.append(button)
        layout = {"grid_template_columns": "52px repeat(7, minmax(44px, 74px))", "align_items": "center"}
        grid = widgets.GridBox(children, layout=layout)
        grid.add_class("skin-matrix")
        across = widgets.HTML(Markup('<span class="soft">{}</span>').format(self._word("matrix")))
        self._matrix = widgets.VBox([across, grid])
        self._shown = widgets.HTML()
        orders = [(self._word(name), name) for name in explore.SORTS]
        self._order = widgets.Dropdown(
            options=orders, description=self._word("order"), style={"description_width": "initial"}
        )
        self._order.add_class("skin-order")
        self._order.observe(lambda _: self.show(*self.cell), "value")
        self._before, self._after = (widgets.Button(description=self._word(name)) for name in ("previous", "next"))
        self._before.on_click(lambda _: self._turn(-1))
        self._after.on_click(lambda _: self._turn(1))
        self._slots = []
        for place in range(PAGE):
            text, button = widgets.HTML(), widgets.Button(description=self._word("look"), layout={"width": "auto"})
            button.on_click(lambda _, place=place: self.look(self._on_page[place]))
            self._slots.append(widgets.VBox([text, button]))
        layout = {"grid_template_columns": "repeat(auto-fill, minmax(270px, 1fr))", "grid_gap": "14px"}
        self._cards = widgets.GridBox([], layout=layout)
        self._cards.add_class("skin-cards")

    def _build_lesion(self):
        self._picture, self._comparison, self._neighbours = (widgets.HTML() for _ in range(3))
        self._picture.add_class("skin-lesion")
        self._comparison.add_class("skin-comparison")
        self._neighbours.add_class("skin-neighbours")
        self._pair = [
            widgets.Dropdown(description=self._word(name), style={"description_width": "initial"})
            for name in ("first", "second")
        ]
        for dropdown in self._pair:
            dropdown.observe(lambda _: self._compare(), "value")
        self._find = widgets.Button(description=self._word("find"), layout={"width": "auto"})
        self._find.add_class("skin-find")
        self._find.on_click(lambda _: self.find_nearest())

    def _build_threshold(self):
        self._slider = widgets.FloatLogSlider(
            value=0.5, min=-4, max=0, step=0.01, readout_format=".3r", description=self._word("threshold")
        )
        self._slider.layout.width, self._slider.style.description_width = "460px", "initial"
        self._slider.add_class("skin-threshold")
        self._slider.observe(lambda _: None if self._filling else self.flag_from(self._slider.value), "value")
        self._of_validation = widgets.Button(layout={"width": "auto"})
        self._of_validation.add_class("skin-validation")
        self._of_validation.on_click(lambda _: self.flag_from(self._chosen_threshold))
        self._decision = widgets.HTML()
        self._decision.add_class("skin-decision")

    def _build_own(self):
        self._upload = widgets.FileUpload(accept="image/*", description=self._word("upload"), layout={"width": "auto"})
        self._upload.observe(lambda _: self._predict_upload(), "value")
        self._path = widgets.Text(placeholder=self._word("path"), layout={"width": "320px"})
        self._path.add_class("skin-path")
        self._predict = widgets.Button(description=self._word("predict"), layout={"width": "auto"})
        self._predict.add_class("skin-predict")
        self._predict.on_click(lambda _: self.predict(self._path.value.strip()))
        self._own = widgets.HTML(Markup('<div class="skin-tl warn">{}</div>').format(self._word("not_a_diagnosis")))
        self._own.add_class("skin-own")

    # What is chosen -----------------------------------------------------------------------------------------------

    def _open(self, _):
        if not self._filling:
            with self._saying(self._summary):
                self._read(self.folders[self._study.value])

    def _read(self, folder):
        """Read the runs of a study and show its first head."""
        found = explore.open_runs(folder)
        pictures = explore.Pictures(found.images)
        # All of it can be read: from here on the panels are about this study.
        self.found, self._pictures, self._features = found, pictures, {}
        self._fill(1)

    def _chosen(self, place):
        return lambda _: None if self._filling else self._fill(place + 1)

    def _fill(self, first):
        """Offer what there is for the choices from the `first` on, keeping what still stands; then show it."""
        self._filling, chosen = True, {}
        for place, (name, dropdown) in enumerate(self._choices.items()):
            if name == "study":
                continue
            if place >= first:
                offered, before = self._offer(name, chosen), dropdown.value
                dropdown.options = offered
                values = [value for _, value in offered]
                dropdown.value = before if before in values else values[0]
            value = dropdown.value
            chosen |= (
                dict(zip(("split_policy", "preprocessing"), value, strict=True)) if name == "split" else {name: value}
            )
        self._filling, self.choice = False, chosen
        self._show_head()

    def _offer(self, name, chosen):
        table = self.found.predictions
        if name != "split":
            values = explore.options(table, name, **chosen)
            shown = {"strategy": lambda v: self.labels.known("strategy", v), "backbone": self._name, "seed": str}[name]
            return [(shown(value), value) for value in values]
        offered = []
        for policy in explore.options(table, "split_policy", **chosen):
            for scaling in explore.options(table, "preprocessing", split_policy=policy, **chosen):
                words = self.labels.known("split_policy", policy), self.labels.known("preprocessing", scaling)
                offered.append((", ".join(words), (policy, scaling)))
        return sorted(offered, key=lambda pair: (pair[1][0] != "lesion", pair[1][1] != "native"))

    def _name(self, backbone):
        return backbone_name(backbone, self.labels)

    def _show_head(self):
        self.rows = explore.head_table(self.found.predictions, self.choice)
        self.counts, scores = explore.confusion(self.rows), explore.head_scores(self.rows)
        shown = {name: self.labels.number(value, ".3f") for name, value in scores.items()}
        images = self.labels.number(len(self.rows), ",d")
        line = self._word("summary", images=images, lesions=self.labels.number(self.rows["lesion_id"].nunique(), ",d"))
        values = ", ".join(f"{self.labels(f'metric.{name}')} {value}" for name, value in shown.items())
        notes = [self._word(name) for name, present in self._notes().items() if present]
        self._summary.value = Markup('<div class="skin-tl"><b>{}</b> · {}</div>{}').format(
            line, values, Markup("").join(Markup('<div class="skin-tl soft">{}</div>').format(note) for note in notes)
        )
        self._paint()
        self._offer_pair()
        self._prepare_threshold()
        cell = getattr(self, "cell", None)
        self.show(*(cell if cell and self.counts.loc[cell] else explore.worst_cell(self.counts)))

    def _notes(self):
        return {"synthetic": self.found.study.synthetic, "random_weights": self.found.random_weights}

    # The confusion matrix -----------------------------------------------------------------------------------------

    def _paint(self):
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

    def show(self, dx, predicted):
        """Show the images of a cell of the confusion matrix, the first page of them, and look at the first."""
        if hasattr(self, "cell"):
            self._buttons[self.cell].remove_class("skin-here")
        self.cell, self._first = (dx, predicted), 0
        self._buttons[self.cell].add_class("skin-here")
        self._in_cell = explore.in_cell(self.rows, dx, predicted, self._order.value)
        self._show_page()
        self.look(self._in_cell.index[0] if len(self._in_cell) else None)

    def _turn(self, pages):
        self._first = min(max(self._first + pages * PAGE, 0), max(len(self._in_cell) - 1, 0) // PAGE * PAGE)
        self._show_page()

    def _show_page(self):
        page = self._in_cell.iloc[self._first : self._first + PAGE]
        self._on_page = page.index.tolist()
        for slot, (image_id, row) in zip(self._slots, page.iterrows(), strict=False):
            slot.children[0].value = self._card(image_id, row)
        self._cards.children = self._slots[: len(page)]
        fields = {"dx": self.cell[0], "predicted": self.cell[1], "images": self.labels.number(len(self._in_cell), ",d")}
        line = self._word("cell", **fields)
        if len(page) < len(self._in_cell):
            line += " · " + self._word("page", first=self._first + 1, last=self._first + len(page))
        self._shown.value = Markup('<div class="skin-tl"><b>{}</b></div>').format(line)
        self._before.disabled = self._first == 0
        self._after.disabled = self._first + PAGE >= len(self._in_cell)

    def _card(self, image_id, row):
        """Return an image with what is told of it, as HTML."""
        lines = [self._facts(image_id), self._values(row)]
        return Markup(
            '<figure class="skin-tl" data-image="{}">{}<figcaption><b>{}</b> <span class="soft">{}</span>{}{}{}'
            "</figcaption></figure>"
        ).format(
            image_id,
            self._image(image_id, 200),
            image_id,
            row["lesion_id"],
            Markup("").join(Markup('<div class="soft">{}</div>').format(line) for line in lines),
            self._bars(row[explore.PROBABILITIES].to_numpy(float), row["dx"]),
            self._siblings(image_id, 64),
        )

    def _image(self, image_id, width):
        """Return an image as HTML, in the cameras' proportions, 4:3."""
        alt = self.labels("caption.example", diagnosis=self.found.metadata.loc[image_id, "dx"], image=image_id)
        source = explore.png(self._pictures[image_id])
        return Markup('<img src="{}" alt="{}" width="{}" height="{}">').format(source, alt, width, width * 3 // 4)

    def _facts(self, image_id):
        """Return the metadata of an image in words."""
        about = self.found.metadata.loc[image_id]
        age = self._word("age", age=self.labels.number(about["age"], ".0f")) if about["age"] == about["age"] else None
        words = [self.labels.known("sex", about["sex"]), age, self.labels.known("localization", about["localization"])]
        return ", ".join(word for word in [*words, self.labels.known("dx_type", about["dx_type"])] if word)

    def _values(self, row):
        columns = ("confidence", "loss", "disagreement")
        known = [name for name in columns if row[name] == row[name]]
        return " · ".join(f"{self._word(f'value_{name}')} {self.labels.number(row[name], '.2f')}" for name in known)

    def _bars(self, probability, dx):
        """Return probabilities as bars; the true diagnosis is bold."""
        lines = []
        for name, value in zip(CLASSES, probability, strict=True):
            tag = "b" if name == dx else "span"
            lines.append(
                Markup(
                    '<{}>{}</{}><span class="bar"><i style="width:{}%;background:{}"></i></span><span>{}</span>'
                ).format(
                    Markup(tag),
                    name,
                    Markup(tag),
                    f"{100 * value:.1f}",
                    DIAGNOSES[name],
                    self.labels.number(value, ".0%"),
                )
            )
        return Markup('<div class="bars">{}</div>').format(Markup("").join(lines))

    def _siblings(self, image_id, width):
        table = explore.siblings(self.found, image_id, self.choice)
        if table.empty:
            return Markup('<div class="soft">{}</div>').format(self._word("alone"))
        pictures = [
            (row["image_id"], self.labels.known("subset", row["subset"]), row["image_id"])
            for _, row in table.iterrows()
        ]
        return Markup("<div>{}</div>{}").format(self._word("siblings"), self._row_of(pictures, width))

    def _row_of(self, pictures, width):
        """Return small images beside each other: (image_id, caption, second line) each."""
        shown = [
            Markup(
                '<figure data-image="{}">{}<figcaption>{}<br><span class="soft">{}</span></figcaption></figure>'
            ).format(image_id, self._image(image_id, width), *lines)
            for image_id, *lines in pictures
        ]
        return Markup('<div class="pictures">{}</div>').format(Markup("").join(shown))

    # One image ----------------------------------------------------------------------------------------------------

    def look(self, image_id):
        """Look closer at an image of the test subset; None where there is none to look at."""
        self.image = image_id
        if image_id is None:
            self._picture.value = Markup('<div class="skin-tl soft">{}</div>').format(self._word("nothing"))
            self._comparison.value = self._neighbours.value = ""
            return
        row = self.rows.loc[image_id]
        said = self._word(
            "said", dx=self.labels(f"diagnosis.{row['dx']}"), predicted=self.labels(f"diagnosis.{row['predicted']}")
        )
        self._picture.value = Markup(
            '<div class="skin-tl row" data-image="{}">{}<div><div class="big">{}</div><div>{}</div>'
            '<div class="soft">{}</div><div class="soft">{}</div>{}</div></div>'
        ).format(
            image_id,
            self._image(image_id, 320),
            image_id,
            said,
            f"{row['lesion_id']}, {self._facts(image_id)}",
            self._values(row),
            self._siblings(image_id, 110),
        )
        self._compare()
        self._neighbours.value = ""
        if self._key() in self._features:
            self.find_nearest()

    def _offer_pair(self):
        """Offer the backbones to compare: the chosen one and, to begin with, the next."""
        strategy = self.choice["strategy"]
        names = explore.options(self.found.predictions, "backbone", strategy=strategy)
        others = [name for name in names if name != self.choice["backbone"]]
        self._filling = True
        for dropdown, value in zip(self._pair, (self.choice["backbone"], (others or names)[0]), strict=True):
            dropdown.options = [(self._name(name), name) for name in names]
            dropdown.value = value
        self._filling = False

    def _compare(self):
        if self._filling or self.image is None:
            return
        names = list(dict.fromkeys(dropdown.value for dropdown in self._pair))
        table = explore.compare(self.found.predictions, self.image, self.choice, names)
        dx, columns = self.rows.loc[self.image, "dx"], []
        for name in table.columns:
            said = table.index[table[name].to_numpy().argmax()]
            mark = self._word("right" if said == dx else "wrong", predicted=said)
            columns.append(
                Markup('<div data-backbone="{}"><b>{}</b> · {}{}</div>').format(
                    name, self._name(name), mark, self._bars(table[name].to_numpy(), dx)
                )
            )
        self._comparison.value = Markup('<div class="skin-tl row">{}</div>').format(Markup("").join(columns))

    def _key(self):
        """Tell networks apart: heads of a backbone share its features, whole networks learned theirs each by itself."""
        alone = ("split_policy", "seed") if self.choice["strategy"] in TUNED else ()
        return tuple(self.choice[name] for name in ("strategy", "backbone", "preprocessing", *alone))

    def find_nearest(self):
        """Show the training lesions nearest to the chosen image, by the features of the chosen backbone."""
        if self.image is None:
            return
        with self._saying(self._neighbours):
            if self._key() not in self._features:
                self._neighbours.value = Markup('<div class="skin-tl soft">{}</div>').format(self._word("computing"))
                self._features[self._key()] = explore.features_of_run(self.found, self.choice)
            features = self._features[self._key()]
            table = explore.nearest_lesions(self.found, features, self.image, self.choice)
            pictures = []
            for row in table.to_dict("records"):
                where = self._word("same_lesion") if row["same_lesion"] else row["lesion_id"]
                pictures.append((row["image_id"], f"{row['dx']} · {self._distance(row['distance'])}", where))
            line = self._word("nearest", backbone=self._name(self.choice["backbone"]), image=self.image)
            self._neighbours.value = Markup('<div class="skin-tl"><div>{}</div>{}</div>').format(
                line, self._row_of(pictures, 130)
            )

    @contextlib.contextmanager
    def _saying(self, place):
        """Write what a person can mend into a panel, where a click would otherwise end in nothing."""
        try:
            yield
        except SkinTLError as error:
            place.value = Markup('<div class="skin-tl warn" role="alert">{}</div>').format(str(error))

    # The threshold ------------------------------------------------------------------------------------------------

    def _prepare_threshold(self):
        """Take the chosen head's lesions and its validation subset's threshold."""
        self._lesions = explore.lesions_of(self.found.predictions, self.choice)
        self._curve = _curve(self._lesions, self.labels)
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

    def _written(self, threshold):
        """Write a threshold; on the slider's logarithmic scale the digits that count are the first three."""
        digits = 3 if not threshold > 0 else min(max(3, 2 - int(np.floor(np.log10(threshold)))), 8)
        return self.labels.number(threshold, f".{digits}f")

    def flag_from(self, threshold):
        """Show what is found and missed when lesions are flagged from a probability of melanoma on, in 0…1."""
        self._filling, self.flagged_from = True, threshold
        self._slider.value = min(max(threshold, 10**self._slider.min), 1)
        self._filling = False
        found = explore.decide(self._lesions, threshold)
        number = self.labels.number
        shares = "".join(
            Markup('<div><span class="big" data-value="{}">{}</span><br>{}</div>').format(
                name, number(found[name], ".1%"), self._word(name)
            )
            for name in ("sensitivity", "specificity", "precision")
        )
        heads = [self._word("flagged"), self._word("cleared")]
        melanomas, others = found["found"] + found["missed"], found["flagged_others"] + found["cleared"]
        table = _table(
            ["", *heads],
            [
                [self._word("melanomas", n=number(melanomas, ",d")), found["found"], found["missed"]],
                [self._word("others", n=number(others, ",d")), found["flagged_others"], found["cleared"]],
            ],
            number,
            "skin-two",
        )
        by_diagnosis = found["by_diagnosis"]
        rows = [[self.labels(f"diagnosis.{dx}"), *by_diagnosis.loc[dx]] for dx in CLASSES]
        curve = _with_point(self._curve, 1 - found["specificity"], found["sensitivity"])
        self._decision.value = Markup(
            '<div class="skin-tl"><div>{}</div><div class="row">{}</div><br>'
            '<div class="row">{}{}<div>{}</div></div></div>'
        ).format(
            self._word("flagged_from", threshold=self._written(threshold)),
            Markup(shares),
            table,
            _table(["", *heads], rows, number, "skin-by-diagnosis"),
            curve,
        )

    # An image of one's own ----------------------------------------------------------------------------------------

    def _predict_upload(self):
        """Predict the file that was uploaded; it is kept no longer than that takes."""
        for file in self._upload.value:
            with tempfile.TemporaryDirectory() as folder:
                name = Path(file["name"]).name
                (Path(folder) / name).write_bytes(file["content"])
                self.predict(name, folder)

    def predict(self, path, base=None):
        """Show what every backbone of the chosen study says of an image file.

        Parameters
        ----------
        path : str
            Relative to `base`, or to the project's folder.
        base : pathlib.Path, optional
        """
        from skin_tl.apps.prediction import predict_images

        with self._saying(self._own):
            if not path:
                raise SkinTLError(self._word("no_path"))
            self._own.value = Markup('<div class="skin-tl soft">{}</div>').format(self._word("predicting", image=path))
            found = predict_images(
                [Path(path).expanduser()], self.found.folder / "study.json", explain=True, base=base or self.root
            )
            self._own.value = self._predicted(found, found.images[0])

    def _predicted(self, found, image):
        """Return what `skin_tl.apps.prediction.Predictions` say of an image as HTML."""
        table = found.table[found.table["image"] == image]
        notes = [self._word("not_a_diagnosis"), *(self._word(name) for name, here in self._notes().items() if here)]
        if table["unlike"].any():
            names = ", ".join(map(self._name, table.loc[table["unlike"], "backbone"].drop_duplicates()))
            notes.insert(0, self._word("unlike", backbones=names))
        for subset, image_id in table.loc[table["seen"] != "", ["seen", "seen_as"]].drop_duplicates().to_numpy():
            notes.insert(0, self._word(f"seen_{subset}", image=image_id))
        if found.left_out:
            notes.insert(0, self._word("left_out", reason=found.left_out))
        warnings = Markup("").join(Markup('<div class="warn" role="alert">{}</div>').format(note) for note in notes)
        columns = []
        for row in table.to_dict("records"):
            near = found.neighbours
            for name in ("image", "strategy", "backbone"):
                near = near[near[name] == row[name]]
            pictures = [
                (of["image_id"], f"{of['dx']} · {self._distance(of['distance'])}", of["lesion_id"])
                for of in near.to_dict("records")
            ]
            strategy = self.labels.known("strategy", row["strategy"])
            limit = {name: self.labels.number(row[name], ".2g") for name in ("ood_score", "limit")}
            known = (self._word("ood_score", **limit), self._word("nearest_known"), self._row_of(pictures, 84))
            columns.append(
                Markup(
                    '<div data-backbone="{}" style="max-width:300px"><b>{}</b> <span class="soft">{}</span>{}'
                    '<div>{}</div>{}<div class="soft">{}</div><div>{}</div>{}</div>'
                ).format(
                    row["backbone"],
                    self._name(row["backbone"]),
                    strategy,
                    self._heat(
                        found.pixels[image], found.maps[image, row["strategy"], row["backbone"]], row["predicted"]
                    ),
                    self._word("says", predicted=self.labels(f"diagnosis.{row['predicted']}")),
                    self._bars(np.array([row[name] for name in explore.PROBABILITIES]), None),
                    *(known if pictures else ("", "", "")),
                )
            )
        source = Markup('<img src="{}" alt="{}" width="240" height="180">').format(
            explore.png(found.pixels[image]), self._word("your_image", image=image)
        )
        return Markup('<div class="skin-tl">{}<div class="row"><div><b>{}</b>{}</div>{}</div></div>').format(
            warnings, Path(image).name, source, Markup("").join(columns)
        )

    def _heat(self, pixels, heat, predicted):
        """Return an image under its Grad-CAM map, (size, size) in 0…1, as HTML."""
        return Markup('<img src="{}" alt="{}" width="240" height="180">').format(
            explore.png(figures.under_map(pixels, heat)), self._word("heat", predicted=predicted)
        )

    def _distance(self, distance):
        return self._word("distance", distance=self.labels.number(distance, ".2g"))


_WRAP = widgets.Layout(flex_flow="row wrap", grid_gap="4px 14px")


def _table(heads, rows, number, name):
    """Return a table of counts as HTML."""
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(word) for word in heads)
    lines = []
    for first, *counts in rows:
        cells = Markup("").join(Markup("<td>{}</td>").format(number(int(count), ",d")) for count in counts)
        lines.append(Markup('<tr><th scope="row">{}</th>{}</tr>').format(first, cells))
    return Markup('<table class="{}"><thead><tr>{}</tr></thead><tbody>{}</tbody></table>').format(
        name, head, Markup("").join(lines)
    )


_CURVE = (0.2, 0.22, 0.76, 0.74)
"""Where the axes of the ROC curve stand in their figure: left, bottom, width, height."""


@themed
def _curve(lesions, labels):
    """Draw the ROC curve of melanoma on the test subset as SVG."""
    figure = Drawing(figsize=(3.4, 3.1))
    axes = figure.add_axes(_CURVE)
    wanted = lesions["melanoma"].to_numpy(bool)
    if wanted.any() and not wanted.all():
        false, true, _ = skm.roc_curve(wanted, lesions["melanoma_score"])
        axes.plot(false, true, color=SOFT, linewidth=1.6)
    axes.plot([0, 1], [0, 1], color=GRID, linewidth=1)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_xlabel(labels("explore.curve_x", n=labels.number(int((~wanted).sum()), ",d")))
    axes.set_ylabel(labels("explore.curve_y", n=labels.number(int(wanted.sum()), ",d")))
    write_numbers(axes.xaxis, labels, ".1f")
    write_numbers(axes.yaxis, labels, ".1f")
    return to_svg(figure, "curve")


def _with_point(curve, false, true):
    """Put a point on the ROC curve; nothing where it has no place."""
    if not np.isfinite([false, true]).all():
        return Markup(curve)
    wide, high = map(float, re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', curve).groups())
    left, bottom, width, height = _CURVE
    x, y = wide * (left + width * false), high * (1 - bottom - height * true)
    point = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{DIAGNOSES["mel"]}" stroke="#ffffff"/></svg>'
    return Markup(curve.rstrip().removesuffix("</svg>") + point)
