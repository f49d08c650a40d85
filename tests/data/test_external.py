"""The external test set is read in both of its forms, kept apart from the data set, and predicted by every head."""

import io
import itertools
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dataverse import Dataverse, archive
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from skin_tl import schema
from skin_tl.data import external, preparation
from skin_tl.data.releases import source_state
from skin_tl.errors import SkinTLError
from skin_tl.models import external_predictions
from skin_tl.schema import CLASSES, METADATA_COLUMNS
from skin_tl.workflow.start import check_changed_data

CHALLENGE = ["MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"]
"""Columns of the challenge's table, in its order."""


def names(n):
    return [f"ISIC_{50000 + k:07d}" for k in range(n)]


def as_ham(image_ids):
    """Return labels with HAM10000's columns (and one more, as newer tables have), two images of each lesion."""
    n = len(image_ids)
    return pd.DataFrame(
        {
            "lesion_id": [f"HAMTEST_{k // 2:07d}" for k in range(n)],
            "image_id": image_ids,
            "dx": [CLASSES[k // 2 % 7] for k in range(n)],
            "dx_type": ["histo", "consensus"][n % 2],
            "age": ["55.0", ""][n % 2],
            "sex": "female",
            "localization": "back",
            "dataset": "vidir_modern",
        }
    )


def as_challenge(image_ids):
    """Return the same labels as the challenge gives them."""
    ham = as_ham(image_ids)
    marks = {name: np.where(ham["dx"] == name.lower(), "1.0", "0.0") for name in CHALLENGE}
    return pd.DataFrame({"image": image_ids, **marks})


FORMS = {"ham": as_ham, "challenge": as_challenge}


def tiny(seed=0):
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (8, 8, 3), np.uint8)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def release(tmp_path, monkeypatch):
    """Return a function that writes labels and images, names their folder by the variable, and returns it."""
    folder = tmp_path / "ISIC2018"
    monkeypatch.setenv("SKIN_TL_ISIC2018", str(folder))
    monkeypatch.setenv("SKIN_TL_CACHE", str(tmp_path / "cache"))

    def write(table, name=f"{external.LABELS}.csv", separator=","):
        content = tiny()
        for index, image_id in enumerate(table.iloc[:, list(table).index("image_id") if "image_id" in table else 0]):
            path = folder / ["ISIC2018_Task3_Test_Images", "ISIC2018_Task3_Test_Input/deeper"][index % 2]
            path.mkdir(parents=True, exist_ok=True)
            (path / f"{image_id}.png").write_bytes(content)
        table.to_csv(folder / name, index=False, sep=separator)
        return folder

    return write


# Reading


@pytest.mark.parametrize(("form", "n"), [("ham", 1511), ("challenge", 1512), ("challenge", 1511), ("ham", 1512)])
def test_both_published_forms_are_read_in_full(release, form, n):
    release(FORMS[form](names(n)))
    data = external.open_isic2018()
    assert data.metadata.columns.tolist() == list(METADATA_COLUMNS)
    assert data.metadata["image_id"].tolist() == names(n) == sorted(data.files)
    assert data.metadata["dx"].tolist() == [CLASSES[k // 2 % 7] for k in range(n)]
    assert {path.endswith(f"{image_id}.png") for image_id, path in data.files.items()} == {True}
    if form == "challenge":
        assert data.metadata["lesion_id"].tolist() == names(n)
        assert set(data.metadata[["dx_type", "sex", "localization"]].to_numpy().ravel()) == {"unknown"}
        assert data.metadata["age"].isna().all()
    else:
        assert data.metadata["lesion_id"].nunique() == -(-n // 2)
        assert set(data.metadata["dx_type"]) == {["histo", "consensus"][n % 2]}
    assert not data.synthetic and "SKIN_TL_ISIC2018" in data.source


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("name", "separator"), [("{}", "\t"), ("{}.csv", ","), ("{}.tab", "\t"), ("{}.CSV", ","), ("lower", ",")]
)
def test_the_table_is_found_under_every_name(release, form, name, separator):
    table = external.LABELS.lower() if name == "lower" else name.format(external.LABELS)
    folder = release(FORMS[form](names(8)), table, separator)
    if name == "{}.csv":  # the challenge's archive unpacks to a folder of the table's name
        (folder / external.LABELS).mkdir()
        (folder / table).rename(folder / external.LABELS / table)
    assert external.open_isic2018().metadata["dx"].tolist() == [CLASSES[k // 2] for k in range(8)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("has_picture", [True, False])
def test_one_image_may_be_missing_as_it_is_in_the_release(release, capsys, form, has_picture):
    folder = release(FORMS[form]([*names(7), external.NOT_RELEASED]))
    if not has_picture:
        next(folder.rglob(f"{external.NOT_RELEASED}.png")).unlink()
    data = external.open_isic2018()
    wanted = sorted([*names(7), *([external.NOT_RELEASED] if has_picture else [])])
    assert sorted(data.metadata["image_id"]) == wanted == sorted(data.files)
    assert (external.NOT_RELEASED in capsys.readouterr().err) == (not has_picture)


labels = st.lists(st.sampled_from(CLASSES), min_size=1, max_size=20)


@settings(deadline=None, max_examples=50)
@given(labels, st.sampled_from([",", "\t"]), st.sampled_from(["1.0", "1", " 1"]), st.booleans(), st.data())
def test_order_case_and_separator_do_not_matter(tmp_path_factory, wanted, separator, one, crlf, data):
    columns = data.draw(st.permutations(["image", *CHALLENGE]))
    change = data.draw(st.sampled_from([str.upper, str.lower, str.title]))
    rows = [
        {"image": image_id} | {name: one if name.lower() == dx else one.replace("1", "0") for name in CHALLENGE}
        for image_id, dx in zip(names(len(wanted)), wanted, strict=True)
    ]
    lines = [separator.join(change(name) for name in columns)]
    lines += [separator.join(row[name] for name in columns) for row in data.draw(st.permutations(rows))]
    path = tmp_path_factory.mktemp("labels") / external.LABELS
    path.write_bytes((("\r\n" if crlf else "\n").join(lines) + "\n").encode())
    table = external.read_labels(path)
    assert table["image_id"].tolist() == names(len(wanted))
    assert table["dx"].tolist() == wanted


@settings(deadline=None, max_examples=50)
@given(labels, st.sampled_from([",", "\t"]), st.data())
def test_neither_do_they_in_the_columns_of_ham10000(tmp_path_factory, wanted, separator, data):
    change = data.draw(st.sampled_from([str.upper, str.lower, str.title]))
    table = as_ham(names(len(wanted))).assign(lesion_id=names(len(wanted)), dx=[change(dx) for dx in wanted])
    table = table.iloc[data.draw(st.permutations(range(len(table))))][data.draw(st.permutations(list(table)))]
    path = tmp_path_factory.mktemp("labels") / external.LABELS
    table.rename(columns=change).to_csv(path, index=False, sep=separator)
    read = external.read_labels(path)
    assert read["image_id"].tolist() == names(len(wanted))
    assert read["dx"].tolist() == wanted


def test_what_ham10000s_columns_leave_empty_is_unknown(release):
    table = as_ham(names(4)).assign(dx_type=["", "histo", "Consensus", "follow-up"], sex="", age="", localization="")
    metadata = external.read_labels(release(table) / f"{external.LABELS}.csv")
    assert metadata["dx_type"].tolist() == ["unknown", "histo", "consensus", "follow_up"]
    assert set(metadata["sex"]) == set(metadata["localization"]) == {"unknown"}
    assert metadata["age"].isna().all()


def test_lesions_of_challenge_labels_are_kept(release):
    table = as_challenge(names(6)).assign(lesion_id=["a", "a", "b", "b", "", "c"])
    read = external.read_labels(release(table) / f"{external.LABELS}.csv")
    assert read["lesion_id"].tolist() == ["a", "a", "b", "b", names(6)[4], "c"]


def edited(form, row, column, value):
    table = FORMS[form](names(14))
    table.loc[row, column] = value
    return table


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (as_challenge(names(14)).drop(columns="VASC"), r"columns image, mel, .*Expected those of HAM10000 .*VASC"),
        (as_challenge(names(14)).drop(columns="image"), "Expected those of HAM10000"),
        (pd.DataFrame({"image_name": names(3), "target": 0}), "columns image_name, target"),
        (as_ham(names(14)).drop(columns="dx"), "columns lesion_id, image_id, dx_type, .*Expected those of HAM10000"),
        (as_ham(names(14)).drop(columns="lesion_id"), "no column lesion_id"),
        (as_ham(names(14)).drop(columns="dx_type"), "no column dx_type"),
        (edited("challenge", 5, CHALLENGE, "0.0"), r"line 7: no diagnosis \(1 rows"),
        (edited("challenge", [5, 9], CHALLENGE[:2], "1.0"), r"line 7: several diagnoses \(2 rows"),
        (edited("challenge", 3, "MEL", "0.7"), "line 5: values other than 0 and 1"),
        (edited("challenge", 3, "MEL", ""), "line 5: values other than 0 and 1"),
        (edited("challenge", 3, "MEL", "yes"), "line 5: values other than 0 and 1"),
        (edited("challenge", 3, "image", names(1)[0]), r"image_id, line 2: a repeated value 'ISIC_0050000'"),
        (edited("challenge", 3, "image", "../../etc/passwd"), "line 5: the value '../../etc/passwd'"),
        (edited("ham", 3, "image_id", names(1)[0]), "image_id, line 2: a repeated value"),
        (edited("ham", 3, "dx", "scc"), "dx, line 5: the value 'scc'"),
        (edited("ham", 3, "dx_type", "guess"), "dx_type, line 5: the value 'guess'.*histo.*unknown"),
        (as_challenge([]), "no rows"),
        (as_ham([]), "no rows"),
    ],
)
def test_a_table_that_is_wrong_is_refused_with_its_reason(tmp_path, table, said):
    path = tmp_path / f"{external.LABELS}.tab"
    table.to_csv(path, index=False, sep="\t")
    with pytest.raises(SkinTLError) as error:
        external.read_labels(path)
    assert re.search(said, str(error.value)), error.value
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe\x00", b"\x00"])
def test_what_is_no_table_is_refused(tmp_path, content):
    path = tmp_path / external.LABELS
    path.write_bytes(content)
    with pytest.raises(SkinTLError, match=external.LABELS):
        external.read_labels(path)


def test_missing_images_are_counted_and_named(release):
    folder = release(as_challenge(names(6)))
    for image_id in names(2):
        next(folder.rglob(f"{image_id}.png")).unlink()
    with pytest.raises(SkinTLError, match="2 of 6 images of the table are missing: ISIC_0050000, ISIC_0050001"):
        external.open_isic2018()


def test_a_folder_that_is_not_there_or_holds_no_labels_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("SKIN_TL_ISIC2018", str(tmp_path / "nowhere"))
    with pytest.raises(SkinTLError, match=r"SKIN_TL_ISIC2018=.*nowhere is not a folder"):
        external.open_isic2018()
    monkeypatch.setenv("SKIN_TL_ISIC2018", str(tmp_path))
    with pytest.raises(SkinTLError, match=f"{external.LABELS}.csv"):
        external.open_isic2018()


def test_two_forms_side_by_side_are_refused(release):
    release(as_ham(names(6)), f"{external.LABELS}.tab", "\t")
    release(as_challenge(names(6)))
    with pytest.raises(SkinTLError, match=r"several metadata tables that differ.*Keep one"):
        external.open_isic2018()


# Downloading


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Return a function that serves labels and their images, for downloads into a cache of the test's own."""
    monkeypatch.delenv("SKIN_TL_ISIC2018", raising=False)
    monkeypatch.setenv("SKIN_TL_CACHE", str(tmp_path / "cache"))
    opened = []

    def serve(table, image_ids):
        content = table.to_csv(index=False).encode()
        images = archive("ISIC2018_Task3_Test_Images.zip", image_ids, "ISIC2018_Task3_Test_Images/")
        opened.append(Dataverse((f"{external.LABELS}.tab", content), images))
        monkeypatch.setenv("SKIN_TL_DATAVERSE", opened[-1].address)
        return opened[-1]

    yield serve
    for served in opened:
        served.close()


@pytest.mark.parametrize("form", FORMS)
def test_without_a_folder_it_is_downloaded_once(server, tmp_path, form):
    served = server(FORMS[form]([*names(6), external.NOT_RELEASED]), names(6))
    data = external.open_isic2018()
    assert data.metadata["image_id"].tolist() == names(6)
    folder = tmp_path / "cache" / "downloads" / "ISIC2018"
    assert all(path.startswith(f"{folder}{os.sep}") for path in data.files.values())
    assert "/api/access/datafile/1?format=original" in served.asked
    n_requests = len(served.asked)
    assert external.open_isic2018().fingerprint == data.fingerprint
    assert len(served.asked) == n_requests


def test_a_downloaded_table_that_is_wrong_is_not_kept(server, tmp_path):
    server(pd.DataFrame({"a": [1]}), names(6))
    with pytest.raises(SkinTLError, match="Expected those of HAM10000"):
        external.open_isic2018()
    assert not (tmp_path / "cache" / "downloads" / "ISIC2018" / f"{external.LABELS}.csv").exists()


def test_without_network_the_error_names_the_variable_of_this_set(server, monkeypatch):
    served = server(as_ham(names(6)), names(6))
    del served.files[2]
    for address in (served.address, "http://127.0.0.1:9"):
        monkeypatch.setenv("SKIN_TL_DATAVERSE", address)
        with pytest.raises(SkinTLError, match="SKIN_TL_ISIC2018=") as error:
            external.open_isic2018()
        assert "SKIN_TL_HAM10000" not in str(error.value)


# Images that are in the data set too


def test_images_of_the_data_set_are_refused_by_their_ids():
    external.refuse_known(names(5), ["ISIC_0024306"])
    shared = [*names(6), "isic_0099999"]
    with pytest.raises(SkinTLError, match=r"^7 images .*ISIC_0050000.* …\. ") as error:
        external.refuse_known(["ISIC_0000001", *shared], ["ISIC_0099999", "ISIC_0024306", *names(6)])
    assert "ISIC_0000001" not in str(error.value)


# The steps


@pytest.fixture
def prepared(small_study, tmp_path, monkeypatch):
    """Return the small study with an external test set of 15 pictures, one of them of the data set, and its folder."""
    pytest.importorskip("keras")
    from skin_tl.models import runs

    study = small_study.model_copy(
        update={"external": "isic2018", "split_policies": ["lesion", "image"], "preprocessings": ["native", "unit"]}
    )
    folder, source = tmp_path / "runs" / "small", tmp_path / "ISIC2018"
    data = runs.prepare(study, folder)
    source.mkdir()
    pictures = {image_id: tiny(k) for k, image_id in enumerate(names(14))}
    known = sorted(data.metadata["image_id"])[5]
    pictures["ISIC_0059999"] = (tmp_path / "HAM10000" / f"{known}.png").read_bytes()
    for image_id, content in pictures.items():
        (source / f"{image_id}.png").write_bytes(content)
    as_ham(list(pictures)).to_csv(source / f"{external.LABELS}.csv", index=False)
    monkeypatch.setenv("SKIN_TL_ISIC2018", str(source))
    return study, data, folder, known


def test_external_images_are_prepared_like_the_others(prepared):
    study, _, folder, _ = prepared
    metadata, images = preparation.prepare_external(study, folder)

    assert preparation.read_images(folder, "external") == images and len(images.ids) == 15
    pd.testing.assert_frame_equal(preparation.read_metadata_table(folder, "external"), metadata)
    assert not set(images.ids) & set(preparation.read_images(folder).ids)


def test_images_of_the_data_set_are_refused_before_anything_is_written(prepared, tmp_path):
    study, _, folder, known = prepared
    (tmp_path / "ISIC2018" / f"{known}.png").write_bytes(tiny())
    as_ham([*names(14), "ISIC_0059999", known]).to_csv(tmp_path / "ISIC2018" / f"{external.LABELS}.csv", index=False)
    with pytest.raises(SkinTLError, match=f"1 images of the external test set are in the data set too: {known}"):
        preparation.prepare_external(study, folder)
    assert not (folder / "external").exists()


def test_a_set_that_has_to_be_decoded_again_is_checked_first(prepared, tmp_path, monkeypatch):
    study, _, folder, _ = prepared
    preparation.prepare_external(study, folder)
    place = Path(os.environ["SKIN_TL_ISIC2018"])
    state = source_state("ISIC2018", folder / "external")
    check_changed_data(study, folder)
    # The same table with another separator: the same set.
    table = next(place.glob("*.csv"))
    table.with_suffix(".tab").write_text(pd.read_csv(table).to_csv(sep="\t", index=False))
    table.unlink()
    assert source_state("ISIC2018", folder / "external") != state
    check_changed_data(study, folder)
    assert source_state("ISIC2018", folder / "external") == state
    picture = next(path for path in place.rglob("*") if path.suffix in (".png", ".jpg"))
    os.truncate(picture, 100)
    with pytest.raises(SkinTLError, match=f"{picture.name} is damaged"):
        check_changed_data(study, folder)
    monkeypatch.delenv("SKIN_TL_ISIC2018")
    check_changed_data(study, folder)  # nothing new is offered
    with pytest.raises(SkinTLError, match=f"SKIN_TL_ISIC2018 is not set.*{place}"):
        check_changed_data(study, folder, forced=True)
    with pytest.raises(SkinTLError, match="SKIN_TL_ISIC2018 is not set"):
        preparation.prepare_external(study, folder)


def test_a_picture_of_the_data_set_under_another_id_is_listed_and_said(prepared, tmp_path, capsys):
    study, _, folder, known = prepared
    preparation.prepare_external(study, folder)
    capsys.readouterr()
    preparation.find_duplicates(study, folder)
    table = pd.read_csv(folder / "external" / "duplicates.csv")
    assert table.columns.tolist() == schema.DUPLICATE_COLUMNS
    assert table["image_id"].is_monotonic_increasing and len(table) < 15
    copy = table.set_index("image_id").loc["ISIC_0059999"]
    assert copy["nearest_image_id"] == known and copy["ratio"] == pytest.approx(0, abs=1e-4)
    assert f"{len(table)} external images look like an image of the data set" in capsys.readouterr().err


def test_without_near_duplicates_the_list_is_a_header(prepared, tmp_path, capsys):
    study, _, folder, _ = prepared
    as_ham(names(14)).to_csv(tmp_path / "ISIC2018" / f"{external.LABELS}.csv", index=False)  # without the copy
    preparation.prepare_external(study, folder)
    capsys.readouterr()
    preparation.find_duplicates(study, folder)
    assert (folder / "external" / "duplicates.csv").read_text() == "image_id,nearest_image_id,ratio\n"
    assert "look like" not in capsys.readouterr().err


@pytest.mark.parametrize("views", [1, 2])
def test_every_head_predicts_every_external_image(prepared, views):
    from skin_tl.explain.explanations import open_model
    from skin_tl.models import heads, training

    study, data, folder, known = prepared
    preparation.prepare_external(study, folder)
    run = folder / "feature_extraction" / "MobileNetV2"
    study = study.model_copy(
        update={"leakage": True, "views": views}
    )  # heads of other arms are there, and are not asked
    training.train_run(study, "feature_extraction", "MobileNetV2", data, run)
    before = (run / "predictions.csv").read_bytes()
    external_predictions.predict_external(study, "feature_extraction", "MobileNetV2", folder)
    table = pd.read_csv(run / "predictions_isic2018.csv")
    assert (run / "predictions.csv").read_bytes() == before
    assert table.columns.tolist() == training.PREDICTION_COLUMNS
    assert {name: table[name].unique().tolist() for name in ("dataset", "arm", "train_fraction", "subset")} == {
        "dataset": ["isic2018"], "arm": ["main"], "train_fraction": [1.0], "subset": ["test"],
    }  # fmt: skip
    tables = dict(list(table.groupby(["split_policy", "preprocessing", "seed"])))
    assert set(tables) == set(itertools.product(study.split_policies, study.preprocessings, study.seeds))
    expected = as_ham([*names(14), "ISIC_0059999"])
    for part in tables.values():
        for column in ("image_id", "lesion_id", "dx"):
            assert part[column].tolist() == expected[column].tolist()

    # the whole model holds the first of these heads, and takes the pixels of the files
    chances = [f"p_{name}" for name in CLASSES]
    pixels = [np.asarray(Image.open(os.path.join(os.environ["SKIN_TL_ISIC2018"], f"{name}.png")).convert("RGB")
                         .resize((32, 32), Image.Resampling.BICUBIC)) for name in expected["image_id"]]  # fmt: skip
    pixels, model = np.stack(pixels), open_model(study, "feature_extraction", "MobileNetV2", folder)
    said = np.mean([model.predict(part, verbose=0) for part in (pixels, pixels[:, :, ::-1])[:views]], axis=0)
    first = tables[study.split_policies[0], study.preprocessings[0], study.seeds[0]]
    np.testing.assert_allclose(first[chances].to_numpy(), said, atol=1e-4)

    # a picture of the data set under another id gets the same probabilities as there
    inside = pd.read_csv(run / "predictions.csv")
    inside = inside[(inside["image_id"] == known) & (inside["arm"] == "main")]
    assert len(inside)
    for _, row in inside.iterrows():
        part = tables[row["split_policy"], row["preprocessing"], row["seed"]].set_index("image_id")
        np.testing.assert_allclose(
            part.loc["ISIC_0059999", chances].astype(float), row[chances].astype(float), atol=1e-5
        )

    missing = run / "heads" / heads.head_file("main", "image", "unit", 2)
    missing.unlink()
    with pytest.raises(SkinTLError, match=re.escape(f"{missing} cannot be read ([Errno 2] No such file")):
        external_predictions.predict_external(study, "feature_extraction", "MobileNetV2", folder)
