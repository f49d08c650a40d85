"""Image files become one array, whatever their size and mode; bad ones are named."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from skin_tl.errors import SkinTLError
from skin_tl.images import check_cache, decode, file_sizes, read_image


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SKIN_TL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def picture(tmp_path):
    """Return a function that writes a random picture and returns its path."""

    def write(name="a.jpg", size=(60, 45), mode="RGB", seed=0):
        noise = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 4), np.uint8)
        path = tmp_path / name
        Image.fromarray(noise, "RGBA").convert(mode).save(path)
        return path

    return write


def test_processes_that_share_a_cache_decode_once(picture, tmp_path, monkeypatch):
    """Each gets the same array, though all begin at once."""
    files = {f"ISIC_{k}": picture(f"{k}.png") for k in range(40)}
    code = (
        "import sys, json; from skin_tl import images; real = images._decode\n"
        "images._decode = lambda *given: (print('decoded'), real(*given))\n"
        "print(images.decode(json.loads(sys.argv[1]), 64).pixels.sum())"
    )
    command = [sys.executable, "-c", code, json.dumps({name: str(file) for name, file in files.items()})]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = [process.communicate(timeout=120)[0].split() for process in running]
    assert all(process.returncode == 0 for process in running)
    assert sum("decoded" in words for words in said) == 1
    assert len({words[-1] for words in said}) == 1


@pytest.mark.parametrize("size", [(60, 45), (45, 60), (32, 32), (5, 7), (300, 10)])
def test_images_of_any_size_are_squashed_to_the_square(picture, size):
    assert read_image(picture("a.png", size), 32).shape == (32, 32, 3)


@pytest.mark.parametrize("mode", ["L", "RGBA", "LA", "P", "1", "CMYK"])
def test_images_of_other_modes_are_converted(picture, mode):
    name = "a.tif" if mode == "CMYK" else "a.png"
    pixels = read_image(picture(name, mode=mode), 16)
    assert pixels.shape == (16, 16, 3)
    assert pixels.dtype == np.uint8


def test_grey_spreads_over_three_channels_and_alpha_is_dropped(tmp_path):
    Image.new("L", (8, 8), 77).save(tmp_path / "grey.png")
    assert (read_image(tmp_path / "grey.png", 4) == 77).all()
    Image.new("RGBA", (8, 8), (10, 20, 30, 0)).save(tmp_path / "alpha.png")
    assert (read_image(tmp_path / "alpha.png", 4) == [10, 20, 30]).all()


def test_the_array_holds_what_pillow_reads_in_the_order_of_ids(picture):
    files = {name: picture(f"{name}.png", seed=seed) for seed, name in enumerate(["c", "a", "b"])}
    images = decode(files, 24)
    assert images.ids == ["a", "b", "c"]
    assert images.pixels.dtype == np.uint8
    for row, name in enumerate(images.ids):
        expected = Image.open(files[name]).convert("RGB").resize((24, 24), Image.Resampling.BICUBIC)
        assert (images.pixels[row] == np.asarray(expected)).all()


def test_the_sizes_of_the_files_are_counted_the_most_frequent_first(picture):
    sizes = [(60, 45), (32, 20), (60, 45), (20, 32), (60, 45), (32, 20)]
    files = [picture(f"{place}.png", size, seed=place) for place, size in enumerate(sizes)]
    found = [(size["width"], size["height"], size["n_images"]) for size in file_sizes(files)]
    assert found == [(60, 45, 3), (32, 20, 2), (20, 32, 1)]


def test_the_cache_is_keyed_by_content_not_by_name_or_order(picture, tmp_path):
    files = {"a": picture("a.png", seed=1), "b": picture("b.png", seed=2)}
    images = decode(files, 16)
    written = (images.folder / "images.npy").stat().st_mtime_ns
    moved = files["a"].rename(tmp_path / "elsewhere.png")
    again = decode({"b": files["b"], "a": moved}, 16)
    assert again == images
    assert (images.folder / "images.npy").stat().st_mtime_ns == written
    assert decode(files | {"a": moved}, 17).key != images.key
    picture("b.png", seed=3)
    assert decode(files | {"a": moved}, 16).key != images.key


def _truncated(path):
    path.write_bytes(path.read_bytes()[:400])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_text("not a picture"), "is not an image"),
        (_truncated, "is damaged"),
    ],
)
def test_every_bad_file_is_counted_and_named_and_nothing_is_left(picture, tmp_path, spoil, reason):
    files = {name: picture(f"{name}.jpg") for name in "abcd"}
    spoil(files["b"])
    spoil(files["d"])
    with pytest.raises(SkinTLError, match="2 of 4 images") as error:
        decode(files, 16)
    assert str(files["b"]) in str(error.value)
    assert reason in str(error.value)
    assert not list((tmp_path / "cache").rglob("*.npy"))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SkinTLError, match=r"gone\.jpg"):
        decode({"gone": tmp_path / "gone.jpg"}, 16)
    with pytest.raises(SkinTLError, match="does not exist"):
        read_image(tmp_path / "gone.jpg", 16)


def test_a_cache_that_is_no_folder_and_cannot_become_one_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    for name in ("file", "file/x", "nowhere", "nowhere/x"):
        monkeypatch.setenv("SKIN_TL_CACHE", str(tmp_path / name))
        for written in (True, False):
            with pytest.raises(SkinTLError) as error:
                check_cache(written)
            assert str(error.value).startswith(f"SKIN_TL_CACHE={tmp_path / name}: nothing can be written there")
            assert "unset SKIN_TL_CACHE" in str(error.value)
    for name in ("", "new/and/deep"):
        monkeypatch.setenv("SKIN_TL_CACHE", str(tmp_path / name))
        check_cache()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "nowhere"]
