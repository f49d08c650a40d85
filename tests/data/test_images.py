"""Image files become one array, whatever their size and mode; bad ones are named."""

import json
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from skin_tl.data.images import check_cache, decode, file_sizes, read_image
from skin_tl.errors import SkinTLError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SKIN_TL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def picture(tmp_path):
    """Return a function that writes a random picture and returns its path."""

    def write(name="a.jpg", size=(60, 45), mode="RGB", seed=0):
        noise = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 4), np.uint8)
        path = tmp_path / name
        noise[:, :, 3] = 255
        Image.fromarray(noise, "RGBA").convert(mode).save(path)
        return path

    return write


def test_processes_that_share_a_cache_decode_once(picture, tmp_path, monkeypatch):
    """Each gets the same array, though all begin at once."""
    files = {f"ISIC_{k}": picture(f"{k}.png") for k in range(40)}
    code = (
        "import sys, json; from skin_tl.data import images; real = images._decode\n"
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


def test_grey_spreads_over_three_channels(tmp_path):
    Image.new("L", (8, 8), 77).save(tmp_path / "grey.png")
    assert (read_image(tmp_path / "grey.png", 4) == 77).all()


samples = st.integers(0, 2**16 - 1)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jp2", "a.pgm"])
@given(st.lists(samples, min_size=16, max_size=16))
def test_samples_of_16_bits_are_scaled_to_8_bits(tmp_path_factory, name, values):
    folder = tmp_path_factory.mktemp("deep")
    deep = np.array(values, np.uint16).reshape(4, 4)
    Image.fromarray(deep).save(folder / name, **({"irreversible": False} if name == "a.jp2" else {}))
    Image.fromarray(np.rint(deep / 257).astype(np.uint8)).save(folder / "b.png")
    difference = read_image(folder / name, 4).astype(int) - read_image(folder / "b.png", 4)
    assert np.abs(difference).max() <= 1


def _tiff(bits, photometric, packed, width):
    """Return a little-endian TIFF of one row of grey samples."""
    entries = [(256, 4, width), (257, 4, 1), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 8)]
    entries += [(277, 3, 1), (278, 4, 1), (279, 4, len(packed))]
    packed += b"\0" * (len(packed) % 2)
    table = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    return (
        struct.pack("<2sHI", b"II", 42, 8 + len(packed)) + packed + struct.pack("<H", len(entries)) + table + b"\0" * 4
    )


def test_samples_of_12_bits_and_inverted_ones_are_scaled(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(_tiff(12, 1, bytes([0x00, 0x0F, 0xFF, 0x80, 0x08, 0x00]), 4))  # 0, 4095, 2048, 2048
    np.testing.assert_allclose(read_image(path, 4)[0, :, 0].astype(int), [0, 255, 127.5, 127.5], atol=1)
    path.write_bytes(_tiff(16, 0, struct.pack("<4H", 0, 65535, 32768, 32768), 4))
    np.testing.assert_allclose(read_image(path, 4)[0, :2, 0].astype(int), [255, 0], atol=1)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_turns_the_picture_upright(tmp_path, name, orientation):
    upright = np.zeros((16, 16, 3), np.uint8)
    upright[:8, :8], upright[:8, 8:], upright[8:, :8] = 250, 170, 90
    stored = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.swapaxes(0, 1)}
    stored |= {6: lambda a: np.rot90(a, 1), 7: lambda a: np.rot90(a, 2).swapaxes(0, 1), 8: lambda a: np.rot90(a, -1)}
    exif = Image.Exif()
    exif[274] = orientation
    turned = Image.fromarray(np.ascontiguousarray(stored[orientation](upright)))
    turned.save(tmp_path / name, exif=exif, **({} if name == "a.tif" else {"quality": 100}))
    found = read_image(tmp_path / name, 16).astype(int)[4::8, 4::8]
    np.testing.assert_allclose(found, upright[4::8, 4::8].astype(int), atol=8)


def _frames(path):
    pages = [Image.new("RGB", (8, 8), (40 * page, 0, 0)) for page in range(3)]
    pages[0].save(path, save_all=True, append_images=pages[1:])


def _sees_through(path):
    Image.new("RGBA", (8, 8), (10, 20, 30, 254)).save(path)


@pytest.mark.parametrize(
    ("name", "write", "reason"),
    [
        *((f"a.{ending}", _frames, "has 3 frames") for ending in ("gif", "tif", "png", "webp")),
        ("a.png", _sees_through, "is transparent in places"),
        ("a.webp", _sees_through, "is transparent in places"),
        ("a.tif", lambda path: Image.new("F", (8, 8), 0.5).save(path), "whose range is unknown"),
        ("a.tif", lambda path: Image.new("I", (8, 8), 70000).save(path), "whose range is unknown"),
    ],
)
def test_a_picture_whose_pixels_its_file_does_not_determine_is_refused(tmp_path, name, write, reason):
    write(tmp_path / name)
    with pytest.raises(SkinTLError, match=reason) as error:
        read_image(tmp_path / name, 4)
    assert str(error.value).startswith(f"{tmp_path / name} ") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("begin", "name"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0" * 128 + b"DICM\2\0", "DICOM"),
        (b"%PDF-1.7\n", "PDF"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
    ],
)
def test_other_formats_are_named_with_the_remedy(tmp_path, begin, name):
    (tmp_path / "a.jpg").write_bytes(begin)
    with pytest.raises(SkinTLError, match=f"is in the format {name}, .*: convert it to PNG or JPEG"):
        read_image(tmp_path / "a.jpg", 4)


@pytest.mark.filterwarnings("error")
def test_a_very_large_image_is_told_by_its_size_and_the_limit(tmp_path):
    header = struct.pack(">IIBBBBB", 14000, 14000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    data = b"IDAT" + zlib.compress(b"")
    parts = [struct.pack(">I", len(of) - 4) + of + struct.pack(">I", zlib.crc32(of)) for of in (chunk, data)]
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    with pytest.raises(SkinTLError, match="14000 x 14000 pixels, and at most 180,000,000 are read"):
        read_image(tmp_path / "a.png", 4)


def test_a_name_that_is_too_long_or_has_control_characters_is_one_plain_line(tmp_path):
    with pytest.raises(SkinTLError, match="cannot be read: File name too long"):
        read_image(tmp_path / ("a" * 304), 4)
    with pytest.raises(SkinTLError, match=r"\\x1b\[2J\.jpg does not exist"):
        read_image(tmp_path / "\x1b[2J.jpg", 4)


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
