"""Bad input as a user meets it, through ./run_all.sh: one line that names what is wrong, and nothing is lost."""

import os
import shutil
import subprocess
import sys

import pandas as pd
import pytest
import yaml
from copies import copy_project, start
from PIL import Image

from skin_tl.study import save_study

TABLE = "HAM10000_metadata.csv"
PICTURE = "ISIC_100.png"


def slow(*values):
    """Leave a case to `--all`: what it says is tested where it is said, in tests/data."""
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.fixture
def project(tmp_path, small_study):
    """Return a copy of the project with the small study beside it."""
    return copy_project(tmp_path / "a project", small_study)


@pytest.fixture
def data(tmp_path, project):
    """Return the folder of the small study's data set."""
    return tmp_path / "HAM10000"


def told(done):
    """Return the one line that says why a start failed."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr and not done.stdout
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def change(data, edit):
    """Edit the metadata table, a frame of str."""
    edit(pd.read_csv(data / TABLE, dtype=str)).to_csv(data / TABLE, index=False)


def with_value(column, value):
    def edit(table):
        table.loc[5, column] = value
        return table

    return lambda data: change(data, edit)


@pytest.mark.parametrize(
    ("spoil", "names", "remedy"),
    [
        (lambda data: (data / TABLE).unlink(), "HAM10000 holds no metadata table", f"Add the file {TABLE}"),
        slow(lambda data: (data / TABLE).write_text(""), f"{TABLE} is empty", "Restore the table"),
        slow(lambda data: change(data, lambda table: table[:0]), f"{TABLE} has a header but no rows", "Restore"),
        slow(lambda data: change(data, lambda table: table.drop(columns="dx")), "no column dx", "Restore the table"),
        (with_value("dx", "scc"), "line 7: the value 'scc' (1 row in all)", "expected one of akiec, bcc"),
        slow(with_value("image_id", "ISIC_000"), "a repeated value 'ISIC_000' (2 rows in all)", "Correct these rows"),
        (
            lambda data: (data / PICTURE).unlink(),
            "1 of 84 images of the table are missing: ISIC_100",
            "add these files",
        ),
        (lambda data: os.truncate(data / PICTURE, 400), f"{PICTURE} is damaged", "Replace these files"),
        slow(lambda data: os.truncate(data / PICTURE, 0), f"{PICTURE} is empty (0 bytes)", "Replace these files"),
        slow(lambda data: (data / PICTURE).write_text("no"), f"{PICTURE} is not an image", "Replace these files"),
        slow(lambda data: data.rename(data.parent / "moved"), "HAM10000 is not a folder", "Name the folder"),
    ],
    ids=(
        *("no metadata", "empty file", "empty table", "no column", "unknown dx", "repeated id"),
        *("missing image", "truncated", "zero bytes", "no image", "no folder"),
    ),
)
def test_a_bad_data_set_is_told_in_one_line(project, data, spoil, names, remedy):
    spoil(data)
    line = told(start(project, "--until", "images"))
    assert names in line and remedy in line


def test_what_was_made_is_kept_where_its_data_set_is_gone_or_damaged(project, data, monkeypatch, thorough):
    """Brought back, nothing is due; not even where it came back elsewhere, or is not named any more."""

    def begin():
        return start(project, "--until", "baselines")

    def made():
        return {path: path.read_bytes() for path in (project / "runs").rglob("*.csv")}

    first = begin()
    assert first.returncode == 0, first.stderr
    before, kept = made(), data.parent / "kept"
    assert len(before) > 3
    ways = [
        (lambda: data.rename(data.parent / "moved"), "HAM10000 is not a folder"),
        (lambda: (data / TABLE).unlink(), "holds no metadata table"),
        (lambda: (data / PICTURE).unlink(), "images of the table are missing"),
        (lambda: os.truncate(data / PICTURE, 400), f"{PICTURE} is damaged"),
    ]
    for spoil, names in ways:
        shutil.copytree(data, kept)
        spoil()
        assert names in told(begin())
        assert made() == before
        shutil.rmtree(data, ignore_errors=True)
        kept.rename(data)
    (data.parent / "link").symlink_to(data)
    Image.new("RGB", (9, 9)).save(data / "of_no_row.png")
    for place in (data, data.parent / "link", "") if thorough else ("",):
        monkeypatch.setenv("SKIN_TL_HAM10000", str(place))
        again = begin()
        assert again.returncode == 0 and "Nothing to do" in again.stderr, (place, again.stderr)
    # Where it would have to be decoded again, and is not named: no download instead.
    assert "SKIN_TL_HAM10000 is not set" in told(start(project, "--until", "baselines", "--config", "image_size=48"))
    # As that error says, one may ask for the download all the same: without network nothing is lost either.
    source = project / "runs" / "small" / "dataset" / "source.json"
    kept = source.read_bytes()
    source.unlink()
    monkeypatch.setenv("SKIN_TL_DATAVERSE", "http://127.0.0.1:9")
    assert "127.0.0.1:9" in told(begin())
    assert made() == before
    source.write_bytes(kept)
    monkeypatch.setenv("SKIN_TL_HAM10000", str(data))
    change(data, lambda table: table.replace({"localization": {"back": "face"}}))
    assert begin().returncode == 0
    assert made() != before


def test_grey_alpha_and_other_sizes_are_taken(project, data):
    with Image.open(data / PICTURE) as picture:
        picture.convert("L").save(data / PICTURE)
        picture.convert("RGBA").save(data / "ISIC_110.png")
        picture.resize((77, 31)).save(data / "ISIC_120.png")
    done = start(project, "--until", "images")
    assert done.returncode == 0, done.stderr


def test_a_mended_data_set_is_checked_again_and_other_runs_are_kept(project, data):
    """A split that leaves a class without test images; the table is then mended, and nothing else is told to start."""
    whole = (data / TABLE).read_bytes()
    first_two = ["HAM_30", "HAM_31"]
    change(data, lambda table: table[(table["dx"] != "df") | table["lesion_id"].isin(first_two)])
    line = told(start(project, "--until", "dataset"))
    assert "split_policies" in line and "test subset without df (2)" in line and "Add some" in line
    (data / TABLE).write_bytes(whole)
    mended = start(project, "--until", "dataset")
    assert mended.returncode == 0, mended.stderr
    again = start(project, "--until", "dataset")
    assert again.returncode == 0 and "Nothing to do" in again.stderr


@pytest.mark.parametrize(
    ("wrong", "names", "remedy"),
    [
        ({"bakbones": ["VGG16"]}, "unknown key `bakbones`", "did you mean `backbones`?"),
        ({"backbones": ["Resnet50"]}, "unknown backbone 'Resnet50'", "did you mean 'ResNet50'?"),
        ({"strategies": ["finetuning"]}, "key `strategies`", "feature_extraction"),
    ],
    ids=["key", "backbone", "strategy"],
)
def test_a_wrong_study_is_told_before_anything_is_done(project, wrong, names, remedy):
    settings = yaml.safe_load((project / "small.yaml").read_text())
    (project / "wrong.yaml").write_text(yaml.safe_dump(settings | wrong))
    done = start(project, study="wrong.yaml")
    line = told(done)
    assert line == done.stderr.rstrip("\n") and line.startswith("error: wrong.yaml: ")
    assert names in line and remedy in line
    assert not (project / "runs").exists()


def test_weights_of_another_architecture_are_told_and_the_right_ones_go_on(project, tmp_path):
    """Their absence is tested in test_end_to_end.py."""
    code = (
        "import sys, keras\n"
        "for name in sys.argv[1:]:\n"
        "    network = getattr(keras.applications, name)\n"
        "    network(weights=None, include_top=False, input_shape=(32, 32, 3)).save_weights(f'{name}.weights.h5')"
    )
    networks, file = ("VGG16", "MobileNetV2"), tmp_path / "mobilenetv2_notop.weights.h5"
    subprocess.run([sys.executable, "-c", code, *networks], check=True, cwd=tmp_path)
    options = ("--until", "features", "--config", "weights=imagenet")
    for network in networks:
        (tmp_path / f"{network}.weights.h5").replace(file)
        done = start(project, *options, SKIN_TL_WEIGHTS=str(tmp_path))
        if network == "VGG16":
            assert f"{file.name} does not hold the weights of MobileNetV2" in told(done)
    assert done.returncode == 0, done.stderr
    assert "decoding" not in done.stderr  # that was kept


def test_no_network_is_told_with_the_way_round_it(project):
    line = told(start(project, "--until", "images", SKIN_TL_HAM10000="", SKIN_TL_DATAVERSE="http://127.0.0.1:9"))
    assert "http://127.0.0.1:9 cannot be asked for HAM10000 (no connection)" in line
    assert "SKIN_TL_HAM10000=/path/to/HAM10000" in line


def disks(size, folder):
    """Return a command that gives the command that follows it a disk of its own, mounted on a folder."""
    script = f'mount -t tmpfs -o size={size} tmpfs "$0" && exec "$@"'
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, str(folder)]
    if not shutil.which("unshare") or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("this system lets nobody mount a disk of his own")
    return command


@pytest.mark.parametrize(
    ("which", "size", "names"),
    [
        ("cache", "200k", "cache has 0.0 GB free"),  # told before anything is computed
        slow("runs", "4k", "runs/small/"),
        ("runs", "16k", "runs/small/"),
        (".state", "4k", "no space left on the disk"),  # what the engine itself writes
    ],
)
def test_a_full_disk_is_told(project, which, size, names):
    (project / which).mkdir()
    line = told(start(project, "--until", "dataset", before=disks(size, project / which)))
    assert names in line and "Free some space" in line
    done = start(project, "--until", "images")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("size", ["200k", slow("256k")])  # the images take 256 kB, their index 4
def test_a_disk_that_fills_while_images_are_decoded_is_told(project, small_study, size):
    """What a step says; a study on drawn images has no check beforehand."""
    save_study(small_study, project / "runs" / "small" / "study.json")
    (project / "cache").mkdir()
    step = [sys.executable, "-m", "skin_tl", "step", "images", "--study", "runs/small/study.json"]
    environment = os.environ | {"PYTHONPATH": str(project), "SKIN_TL_CACHE": str(project / "cache")}
    done = subprocess.run(
        [*disks(size, project / "cache"), *step], cwd=project, env=environment, text=True, capture_output=True
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and "cache/images/" in said[0] and "no space left on the disk" in said[0]
    assert not (project / "runs" / "small" / "dataset").exists()
