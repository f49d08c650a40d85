"""HAM10000 is read from every layout it comes in, downloaded from a server, and refused with a reason if wrong."""

import os
import shutil

import numpy as np
import pandas as pd
import pytest
from dataverse import Dataverse, archive, jpeg
from PIL import Image

from skin_tl import schema
from skin_tl.data import dataset, metadata, releases
from skin_tl.errors import SkinTLError
from skin_tl.schema import CLASSES
from skin_tl.study import check_study


def rows(n=14):
    """Return a small valid table, two images of each lesion."""
    return pd.DataFrame(
        {
            "lesion_id": [f"HAM_{k // 2:07d}" for k in range(n)],
            "image_id": [f"ISIC_{k:07d}" for k in range(n)],
            "dx": [CLASSES[k // 2 % 7] for k in range(n)],
            "dx_type": ["histo", "follow_up", "consensus", "confocal"][0],
            "age": ["55.0", "", "0.0", "80.0", "5.0", "45.0", "60.0"] * (n // 7),
            "sex": ["male", "female", "unknown", "male", "male", "female", "male"] * (n // 7),
            "localization": "back",
        }
    )


@pytest.fixture
def release(tmp_path):
    """Return a function that writes a data set in one of the known layouts and returns its folder."""

    def write(table=None, layout="dataverse", name="HAM10000_metadata", separator=","):
        table = rows() if table is None else table
        folder = tmp_path / "HAM10000"
        folders = {
            "dataverse": ["HAM10000_images_part_1", "HAM10000_images_part_2"],
            "kaggle": ["HAM10000_images_part_1", "ham10000_images_part_2"],
            "flat": [".", "."],
        }[layout]
        for index, image_id in enumerate(dict.fromkeys(table["image_id"])):
            path = folder / folders[index % 2] / f"{image_id}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(jpeg(index))
        if layout == "kaggle":  # some versions hold a part twice, in another case, and tables of pixels
            copy = folder / "HAM10000_IMAGES_PART_1_copy"
            copy.mkdir()
            for path in (folder / folders[0]).iterdir():
                (copy / path.name).write_bytes(path.read_bytes())
            (folder / "hmnist_28_28_RGB.csv").write_text("pixel0000,label\n1,2\n")
        table.to_csv(folder / name, index=False, sep=separator)
        return folder

    return write


@pytest.mark.parametrize("layout", ["dataverse", "kaggle", "flat"])
@pytest.mark.parametrize(
    ("name", "separator"),
    [
        ("HAM10000_metadata", "\t"),
        ("HAM10000_metadata.csv", ","),
        ("HAM10000_metadata.tab", "\t"),
        ("ham10000_METADATA.CSV", ","),
    ],
)
def test_every_layout_gives_the_same_data_set(release, layout, name, separator):
    data = dataset.read_folder(release(layout=layout, name=name, separator=separator))
    expected = rows()
    assert data.metadata["image_id"].tolist() == expected["image_id"].tolist()
    assert data.metadata["dx"].tolist() == expected["dx"].tolist()
    assert data.metadata["age"].isna().sum() == 2
    assert set(data.files) == set(expected["image_id"])
    for index, image_id in enumerate(expected["image_id"]):
        with open(data.files[image_id], "rb") as file:
            assert file.read() == jpeg(index)


def test_row_and_column_order_do_not_matter(release):
    data = dataset.read_folder(release())
    shuffled = rows().sample(frac=1, random_state=1)[list(reversed(schema.METADATA_COLUMNS))]
    path = release(shuffled) / "HAM10000_metadata"
    assert metadata.read_metadata(path).equals(data.metadata)


def test_other_spellings_are_understood(release):
    table = rows()
    table["dx"] = table["dx"].str.upper()
    table["dx_type"] = ["Histopathology", "follow-up"] * 7
    table.columns = [name.title() for name in table.columns]
    read = metadata.read_metadata(release(rows()) / "HAM10000_metadata")
    path = release(rows()) / "HAM10000_metadata"
    table.to_csv(path, index=False)
    again = metadata.read_metadata(path)
    assert again["dx"].tolist() == read["dx"].tolist()
    assert set(again["dx_type"]) == {"histo", "follow_up"}


def test_a_folder_without_metadata_says_which_file_was_expected(tmp_path):
    with pytest.raises(SkinTLError, match=r"HAM10000_metadata\.csv") as error:
        dataset.read_folder(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_two_tables_that_differ_are_refused_and_copies_are_not(release):
    folder = release()
    copy = folder / "HAM10000_metadata.csv"
    copy.write_bytes((folder / "HAM10000_metadata").read_bytes())
    assert len(dataset.read_folder(folder).metadata) == 14
    copy.write_text(copy.read_text().replace("back", "face"))
    with pytest.raises(SkinTLError, match="several metadata tables"):
        dataset.read_folder(folder)


@pytest.mark.parametrize("column", schema.METADATA_COLUMNS)
def test_a_missing_column_is_named(release, column):
    with pytest.raises(SkinTLError, match=f"no column {column}"):
        path = release() / "HAM10000_metadata"
        rows().drop(columns=column).to_csv(path, index=False)
        metadata.read_metadata(path)


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("dx", "scc", "akiec, bcc"),
        ("dx", "", "akiec, bcc"),
        ("dx_type", "guess", "histo"),
        ("age", "-5", "0 to 120"),
        ("age", "old", "number of years"),
        ("sex", "m", "female"),
        ("image_id", "../../etc/passwd", "an id of letters"),
        ("image_id", "ISIC_0000000", "repeated"),
        ("lesion_id", "", "lesion"),
        ("lesion_id", "@SUM(A1)", "does not execute"),
        ("localization", "=1+1", "does not execute"),
        ("image_id", "-ISIC_5", "an id of letters"),
    ],
)
def test_a_value_that_is_not_allowed_is_named_with_its_line(release, column, value, said):
    path = release() / "HAM10000_metadata"
    table = rows()
    table.loc[5, column] = value
    table.to_csv(path, index=False)
    with pytest.raises(SkinTLError) as error:
        metadata.read_metadata(path)
    assert said in str(error.value)
    assert column in str(error.value)
    assert str(path) in str(error.value)
    line = 2 if said == "repeated" else 7
    assert f"line {line}" in str(error.value)


@pytest.mark.parametrize("text", ["", "\n", ",".join(schema.METADATA_COLUMNS) + "\n", "\x00\x01"])
def test_an_empty_table_is_refused(tmp_path, text):
    path = tmp_path / "HAM10000_metadata.csv"
    path.write_text(text)
    with pytest.raises(SkinTLError, match=r"HAM10000_metadata\.csv"):
        metadata.read_metadata(path)


def test_a_lesion_has_one_diagnosis(release):
    table = rows()
    table.loc[1, "dx"] = "mel"
    path = release() / "HAM10000_metadata"
    table.to_csv(path, index=False)
    with pytest.raises(SkinTLError, match="HAM_0000000"):
        metadata.read_metadata(path)


def test_missing_images_are_counted_and_named(release):
    folder = release()
    (folder / "HAM10000_images_part_1" / "ISIC_0000002.jpg").unlink()
    (folder / "HAM10000_images_part_2" / "ISIC_0000003.jpg").unlink()
    with pytest.raises(SkinTLError, match="2 of 14 images of the table are missing: ISIC_0000002, ISIC_0000003"):
        dataset.read_folder(folder)


def test_images_without_a_row_are_left_out_and_said(release, capsys):
    folder = release()
    (folder / "ISIC_9999999.jpg").write_bytes(jpeg())
    assert "ISIC_9999999" not in dataset.read_folder(folder).files
    assert "1 image files" in capsys.readouterr().err


def test_the_variable_names_the_folder(release, monkeypatch, tmp_path):
    study = check_study({"name": "x", "title": "x", "dataset": "ham10000", "backbones": ["VGG16"], "seeds": [1]})
    monkeypatch.setenv("SKIN_TL_HAM10000", str(release()))
    assert len(dataset.open_dataset(study).metadata) == 14
    monkeypatch.setenv("SKIN_TL_HAM10000", str(tmp_path / "nowhere"))
    with pytest.raises(SkinTLError, match=r"nowhere is not a folder"):
        dataset.open_dataset(study)


# Downloads


@pytest.fixture
def dataverse():
    table = rows()
    half = len(table) // 2
    served = Dataverse(
        ("HAM10000_metadata.tab", table.to_csv(index=False, sep="\t").encode()),
        archive("HAM10000_images_part_1.zip", table["image_id"][:half]),
        archive("HAM10000_images_part_2.zip", table["image_id"][half:]),
    )
    yield served
    served.close()


def test_a_download_gives_a_data_set_and_is_not_repeated(dataverse, tmp_path):
    folder = releases.download(tmp_path / "HAM10000", dataverse.address)
    data = dataset.read_folder(folder)
    assert data.metadata["image_id"].tolist() == rows()["image_id"].tolist()
    assert "/api/access/datafile/1?format=original" in dataverse.asked
    n_requests = len(dataverse.asked)
    releases.download(tmp_path / "HAM10000", dataverse.address)
    assert len(dataverse.asked) == n_requests
    assert not list(tmp_path.rglob("*.zip"))


def test_a_download_goes_on_where_it_was_cut_off(dataverse, tmp_path):
    name, content, md5 = dataverse.files[3]
    dataverse.files[3] = (name, content[:-1] + b"x", md5)
    with pytest.raises(SkinTLError, match="MD5"):
        releases.download(tmp_path / "HAM10000", dataverse.address)
    assert not (tmp_path / "HAM10000" / "HAM10000_images_part_2").exists()
    dataverse.files[3] = (name, content, md5)
    dataverse.asked.clear()
    folder = releases.download(tmp_path / "HAM10000", dataverse.address)
    assert not [path for path in dataverse.asked if path.endswith("/2")]
    assert len(dataset.read_folder(folder).files) == 14


def test_an_archive_cannot_write_outside_of_its_folder(dataverse, tmp_path):
    dataverse.files[2] = archive("HAM10000_images_part_1.zip", rows()["image_id"][:7], "../../../evil/")
    releases.download(tmp_path / "a" / "HAM10000", dataverse.address)
    assert not list(tmp_path.rglob("evil"))


def test_a_release_that_lacks_a_file_is_named(dataverse, tmp_path):
    del dataverse.files[3]
    with pytest.raises(SkinTLError, match=r"lists no file HAM10000_images_part_2\.zip"):
        releases.download(tmp_path / "HAM10000", dataverse.address)


def test_without_network_the_error_says_what_to_do(tmp_path):
    with pytest.raises(SkinTLError, match="SKIN_TL_HAM10000=") as error:
        releases.download(tmp_path / "HAM10000", "http://127.0.0.1:9")
    assert "127.0.0.1:9" in str(error.value)


def test_all_of_ham10000_is_read_where_it_is_at_hand():
    folder = os.environ.get("SKIN_TL_TEST_HAM10000")
    if not folder:
        pytest.skip("HAM10000 is not at hand: name its folder by SKIN_TL_TEST_HAM10000")
    data = dataset.read_folder(folder)
    # Tschandl et al., Scientific Data 5, 180161 (2018): 10,015 images; 57 rows without age in the released table
    assert len(data.metadata) == len(data.files) == 10_015
    assert data.metadata["lesion_id"].nunique() == 7_470
    assert data.metadata["age"].isna().sum() == 57
    assert data.metadata["dx"].value_counts().to_dict() == {
        "nv": 6705, "mel": 1113, "bkl": 1099, "bcc": 514, "akiec": 327, "vasc": 142, "df": 115,
    }  # fmt: skip


def test_the_state_of_a_source_changes_with_its_table_and_images_alone(release, monkeypatch, tmp_path):
    monkeypatch.delenv("SKIN_TL_HAM10000", raising=False)

    def state():
        return releases.source_state("HAM10000")

    assert state() == "download"
    folder = release(name="HAM10000_metadata.csv")
    monkeypatch.setenv("SKIN_TL_HAM10000", str(folder))
    first = state()
    (folder / "notes.txt").write_text("of no matter")
    os.utime(folder / "HAM10000_metadata.csv")
    assert state() == first
    picture = folder / "HAM10000_images_part_1" / "ISIC_0000002.jpg"
    picture.rename(tmp_path / "kept.jpg")
    assert state() != first
    (tmp_path / "kept.jpg").rename(picture)
    assert state() == first
    rows().assign(sex="female").to_csv(folder / "HAM10000_metadata.csv", index=False)
    assert state() != first
    rows().to_csv(folder / "HAM10000_metadata.csv", index=False)
    assert state() == first
    os.truncate(picture, 400)
    assert state() != first
    monkeypatch.setenv("SKIN_TL_HAM10000", str(tmp_path / "nowhere"))
    assert state() not in (first, "download")


def test_the_place_of_a_source_does_not_matter_and_without_one_the_last_stays(release, monkeypatch, tmp_path):
    folder = release(name="HAM10000_metadata.csv")
    (tmp_path / "link").symlink_to(folder)
    shutil.copytree(folder, tmp_path / "copy")
    states = set()
    for place in (folder, tmp_path / "link", tmp_path / "copy"):
        monkeypatch.setenv("SKIN_TL_HAM10000", str(place))
        states.add(releases.source_state("HAM10000"))
    assert len(states) == 1
    releases.remember_source("HAM10000", tmp_path)
    monkeypatch.delenv("SKIN_TL_HAM10000")
    assert {releases.source_state("HAM10000", tmp_path)} == states
    with pytest.raises(SkinTLError, match=f"SKIN_TL_HAM10000 is not set, and .* was made from {tmp_path / 'copy'}"):
        releases.refuse_download("HAM10000", tmp_path)
    (tmp_path / "source.json").unlink()
    releases.refuse_download("HAM10000", tmp_path)


# Which file is an image's


def picture(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (9, 12, 3), np.uint8)
    Image.fromarray(noise).save(path)


def test_hidden_folders_and_those_of_systems_are_not_looked_into(release):
    folder = release()
    for place in (".Trash-1000/files", "@eaDir", "__MACOSX"):
        picture(folder / place / "ISIC_0000002.png", 7)
    assert dataset.read_folder(folder).files["ISIC_0000002"] == str(folder / "HAM10000_images_part_1/ISIC_0000002.jpg")


def test_two_pictures_of_one_image_are_refused_with_both_paths(release):
    folder = release()
    picture(folder / "thumbnails" / "ISIC_0000002.jpg", 99)
    with pytest.raises(SkinTLError, match=r"different content.*part_1.ISIC_0000002.jpg and .*thumbnails.ISIC_0000002"):
        dataset.read_folder(folder)


def test_linked_folders_are_followed_without_end_and_packed_archives_named(release, tmp_path):
    folder = release()
    (folder / "HAM10000_images_part_1").rename(tmp_path / "elsewhere")
    (folder / "HAM10000_images_part_1.zip").write_bytes(b"PK")
    with pytest.raises(SkinTLError, match=r"7 of 14 .*HAM10000_images_part_1\.zip. Unpack them") as error:
        dataset.read_folder(folder)
    assert "remove" not in str(error.value)
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "loop").symlink_to(folder)
    assert len(dataset.read_folder(folder).files) == 14


# Columns shifted or cut


@pytest.mark.parametrize("edit", [lambda t: t.replace("back", "back,x", 1), lambda t: t[: t.rstrip().rindex(",") - 6]])
def test_a_row_with_other_fields_than_the_header_is_refused(release, edit):
    path = release() / "HAM10000_metadata"
    path.write_text(edit(path.read_text()))
    with pytest.raises(SkinTLError, match=r"line \d+: \d fields where the header has 7 \(1 row in all\)"):
        metadata.read_metadata(path)


def test_tables_as_spreadsheets_write_them_are_read(release):
    path = release() / "HAM10000_metadata"
    text, expected = path.read_text(), metadata.read_metadata(path)
    semicolons = text.replace(",", ";").replace(".0;", ",0;")
    lines = text.splitlines()
    for content in (
        semicolons.encode(),
        ("sep=;\n" + semicolons).encode(),
        text.encode("utf-16"),
        "\n".join([lines[0], *(line + "," for line in lines[1:])]).encode(),
        text.replace("nv,histo,,", "nv,histo,NaN,").replace(",histo,,", ",histo,NaN,").encode(),
    ):
        path.write_bytes(content)
        assert metadata.read_metadata(path).equals(expected)
    path.write_bytes(text.replace("back", "Rücken").encode("cp1252"))
    with pytest.raises(SkinTLError, match=r"line 2.*Save it as UTF-8"):
        metadata.read_metadata(path)


def test_a_column_given_twice_is_refused(release):
    folder = release(name="HAM10000_metadata.csv")
    rows().assign(Age="5").to_csv(folder / "HAM10000_metadata.csv", index=False)
    with pytest.raises(SkinTLError, match="several columns 'age'"):
        metadata.read_metadata(folder / "HAM10000_metadata.csv")


def test_tables_of_other_releases_are_told_by_their_columns(tmp_path):
    path = tmp_path / "HAM10000_metadata.csv"
    path.write_text("isic_id,diagnosis\nISIC_1,nv\n")
    with pytest.raises(SkinTLError, match="it has isic_id, diagnosis"):
        metadata.read_metadata(path)
