"""Images in folders and zip files, all made by the tests."""

from __future__ import annotations

import io
import math
import random as random_module
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from losspath.errors import DataError
from losspath.thesis import image_folders
from losspath.thesis.datasets import load_dataset
from losspath.thesis.image_folders import Layout, find_layout

Bytes = npt.NDArray[np.uint8]


def random_bytes(*shape: int, seed: int = 0, high: int = 256) -> Bytes:
    return np.random.default_rng(seed).integers(0, high, shape, dtype=np.uint8)


def error_of(call: Callable[[], object], *parts: str) -> None:
    """Checks that a call raises a DataError of one line that holds all of `parts`."""
    with pytest.raises(DataError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def encoded(pixels: Bytes, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def colour(seed: int, side: int = 32) -> bytes:
    return encoded(random_bytes(side, side, 3, seed=seed))


def class_folders(count: int = 10) -> dict[str, bytes]:
    return {
        f"{kind}/{number}.png": colour(100 * place + number)
        for place, kind in enumerate(("cat", "dog"))
        for number in range(count)
    }


def split_folders(test: str = "test") -> dict[str, bytes]:
    files = {f"train/{name}": body for name, body in class_folders(4).items()}
    return files | {f"{test}/{name}": body for name, body in class_folders(2).items()}


def as_folder(where: Path, files: dict[str, bytes]) -> str:
    root = where / "pets"
    for name, body in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(body)
    return f"images:{root}"


def as_zip(where: Path, files: dict[str, bytes]) -> str:
    path = where / "pets.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("empty.png/", b"")
        # Backwards: the order in the file must not matter.
        for name, body in reversed(files.items()):
            archive.writestr(name, body)
    return f"images:{path}"


BOTH = pytest.mark.parametrize("write", [as_folder, as_zip])
Write = Callable[[Path, dict[str, bytes]], str]


@BOTH
@pytest.mark.parametrize("test", ["test", "val", "valid"])
def test_images_with_given_sets(tmp_path: Path, write: Write, test: str) -> None:
    name = write(tmp_path, split_folders(test))
    data = load_dataset(name)
    assert (data.name, data.title, data.classes) == (name, "pets", ("cat", "dog"))
    assert data.train_targets.tolist() == [0] * 4 + [1] * 4
    assert data.test_targets.tolist() == [0] * 2 + [1] * 2
    assert data.train_inputs.shape == (8, 3, 32, 32)
    # Normalised by the training set, and otherwise the very pixels.
    train = data.train_inputs.double()
    torch.testing.assert_close(
        train.mean((0, 2, 3)), torch.zeros(3, dtype=torch.float64), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(
        train.std((0, 2, 3), correction=0), torch.ones(3, dtype=torch.float64)
    )
    seeds = [0, 1, 2, 3, 100, 101, 102, 103]
    pixels = np.stack([random_bytes(32, 32, 3, seed=seed) for seed in seeds]) / 255.0
    expected = (pixels - pixels.mean((0, 1, 2))) / pixels.std((0, 1, 2))
    np.testing.assert_allclose(train.numpy(), expected.transpose(0, 3, 1, 2), atol=1e-5)


def test_folder_and_zip_are_the_same(tmp_path: Path) -> None:
    files = split_folders()
    wrapped = {f"download/pets/{name}": body for name, body in files.items()}
    (tmp_path / "wrapped").mkdir()
    digests = {
        load_dataset(name).digest
        for name in (
            as_folder(tmp_path, files),
            as_zip(tmp_path, files),
            as_zip(tmp_path / "wrapped", wrapped),
        )
    }
    assert len(digests) == 1


@BOTH
def test_images_are_split_when_no_sets_are_given(tmp_path: Path, write: Write) -> None:
    name = write(tmp_path, class_folders(10))
    data = load_dataset(name)
    assert len(data.train_targets) == 16
    assert len(data.test_targets) == 4
    assert load_dataset(name).digest == data.digest
    both = torch.cat([data.train_targets, data.test_targets])
    assert torch.bincount(both).tolist() == [10, 10]
    images = torch.cat([data.train_inputs, data.test_inputs]).numpy()
    assert len(np.unique(images, axis=0)) == 20


@BOTH
def test_what_is_passed_over(tmp_path: Path, write: Write) -> None:
    files = split_folders()
    expected = load_dataset(write(tmp_path, files)).digest
    files |= {
        "__MACOSX/train/cat/._0.png": b"junk",
        "train/cat/.hidden.png": b"junk",
        ".git/cat/0.png": b"junk",
        "train/cat/notes.txt": b"junk",
        "unlabelled/0.png": b"junk",
        "preview.png": b"junk",
        "valid/cat/0.png": b"junk",  # test is there, and comes first
    }
    assert load_dataset(write(tmp_path, files)).digest == expected


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    name = as_folder(tmp_path, split_folders())
    expected = load_dataset(name).digest
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "pets" / "train" / "dog").rename(tmp_path / "elsewhere" / "dog")
    (tmp_path / "pets" / "train" / "dog").symlink_to(tmp_path / "elsewhere" / "dog")
    (tmp_path / "pets" / "train" / "cat" / "up").symlink_to(tmp_path / "pets")
    assert load_dataset(name).digest == expected


def test_link_to_nowhere_is_not_passed_over(tmp_path: Path) -> None:
    name = as_folder(tmp_path, split_folders())
    (tmp_path / "pets" / "train" / "cat" / "9.png").symlink_to(tmp_path / "gone.png")
    error_of(lambda: load_dataset(name), "cannot read train/cat/9.png")


@BOTH
def test_grey_and_colour(tmp_path: Path, write: Write) -> None:
    grey = {
        f"{kind}/{n}.pgm": encoded(random_bytes(32, 32, seed=n), "PPM")
        for kind in "ab"
        for n in range(5)
    }
    data = load_dataset(write(tmp_path, grey))
    assert data.channels == 1
    assert len(data.train_targets) + len(data.test_targets) == 10
    mixed = load_dataset(write(tmp_path, grey | {"a/9.png": colour(1)}))
    assert mixed.channels == 3


@pytest.mark.parametrize("extension", sorted(image_folders.EXTENSIONS))
def test_every_extension(tmp_path: Path, extension: str) -> None:
    kinds = {"jpg": "JPEG", "tif": "TIFF", "pgm": "PPM"}
    kind = kinds.get(extension[1:], extension[1:].upper())
    pixels = np.full((20, 50, 3), 200, np.uint8)
    images = image_folders.read_images(
        as_path(
            as_folder(
                tmp_path,
                {
                    f"{c}/{n}{extension.upper()}": encoded(pixels, kind)
                    for c in "ab"
                    for n in range(5)
                },
            )
        )
    )
    assert images.train.shape[2:] == (32, 32)
    assert abs(images.train.astype(int) - 200).max() <= 2


def as_path(name: str) -> Path:
    return Path(name.removeprefix("images:"))


def test_resized_with_pillows_bilinear_filter(tmp_path: Path) -> None:
    pixels = random_bytes(50, 70, 3)
    files = {f"{kind}/{n}.png": encoded(pixels) for kind in "ab" for n in range(3)}
    images = image_folders.read_images(as_path(as_folder(tmp_path, files)))
    resized = Image.fromarray(pixels).resize((32, 32), Image.Resampling.BILINEAR)
    assert np.array_equal(images.train[0].transpose(1, 2, 0), np.asarray(resized))


@pytest.mark.parametrize(
    ("mode", "channels"),
    [("1", 1), ("L", 1), ("LA", 1), ("I;16", 1), ("P", 3), ("RGB", 3), ("RGBA", 3)],
)
def test_modes_of_png(tmp_path: Path, mode: str, channels: int) -> None:
    buffer = io.BytesIO()
    if mode == "I;16":
        Image.fromarray(np.full((32, 32), 40_000, np.uint16)).save(buffer, "PNG")
    else:
        image = Image.new("RGB", (32, 32), (255, 255, 255)).convert(mode)
        image.save(buffer, "PNG", **({"transparency": b"\x80"} if mode == "P" else {}))
    files = {f"{kind}/{n}.png": buffer.getvalue() for kind in "ab" for n in range(3)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = image_folders.read_images(as_path(as_folder(tmp_path, files)))
    assert images.train.shape[1:] == (channels, 32, 32)
    expected = 40_000 >> 8 if mode == "I;16" else 255
    assert (images.train == expected).all()


def test_constant_channel_becomes_zeros(tmp_path: Path) -> None:
    files: dict[str, bytes] = {}
    for number in range(10):
        pixels = random_bytes(32, 32, 3, seed=number)
        pixels[..., 2] = 77
        files[f"{'ab'[number % 2]}/{number}.png"] = encoded(pixels)
    data = load_dataset(as_folder(tmp_path, files))
    assert data.train_inputs[:, 2].abs().max() < 1e-6
    assert bool(torch.isfinite(data.train_inputs).all())


@BOTH
@pytest.mark.parametrize(
    "body", [b"", b"not an image", colour(0)[:200], colour(0)[:50] + b"\0" * 60, b"GIF89a"]
)
@pytest.mark.parametrize("threads", [True, False])
def test_corrupt_image_is_named(
    tmp_path: Path, write: Write, body: bytes, threads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_folders, "_THREAD_BYTES", -1 if threads else 1 << 40)
    monkeypatch.setattr(image_folders, "_BLOCK", 2)
    name = write(tmp_path, split_folders() | {"train/dog/2.png": body})
    error_of(lambda: load_dataset(name), "train/dog/2.png", "replace it or remove it")


def test_threads_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = as_zip(tmp_path, class_folders(20))
    expected = load_dataset(name).digest
    monkeypatch.setattr(image_folders, "_THREAD_BYTES", -1)
    monkeypatch.setattr(image_folders, "_BLOCK", 3)
    assert load_dataset(name).digest == expected


@BOTH
def test_decompression_bomb(tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600)
    name = write(tmp_path, split_folders() | {"train/dog/2.png": colour(1, side=40)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        error_of(lambda: load_dataset(name), "train/dog/2.png", "exceeds limit")


@BOTH
def test_oversized_file(tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_folders, "_MAX_FILE_BYTES", 5000)
    name = write(tmp_path, split_folders() | {"train/dog/2.png": colour(1, side=60)})
    error_of(lambda: load_dataset(name), "train/dog/2.png", "at most 5000")


def test_floating_point_image(tmp_path: Path) -> None:
    pixels = io.BytesIO()
    Image.fromarray(np.ones((32, 32), np.float32)).save(pixels, "TIFF")
    name = as_folder(tmp_path, split_folders() | {"train/cat/9.tif": pixels.getvalue()})
    error_of(lambda: load_dataset(name), "train/cat/9.tif", "floating-point")


def test_damaged_zips(tmp_path: Path) -> None:
    path = as_path(as_zip(tmp_path, split_folders()))
    body = bytearray(path.read_bytes())
    path.write_bytes(body[: len(body) // 2])
    error_of(lambda: load_dataset(f"images:{path}"), str(path), "as a zip file")
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        member = archive.getinfo("train/dog/2.png")
    body[member.header_offset + 200] ^= 0xFF
    path.write_bytes(body)
    error_of(lambda: load_dataset(f"images:{path}"), "cannot read", "train/dog/2.png")


def test_encrypted_zip(tmp_path: Path) -> None:
    path = as_path(as_zip(tmp_path, split_folders()))
    body = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        place = body.find(signature)
        while place >= 0:
            body[place + offset] |= 1
            place = body.find(signature, place + 1)
    path.write_bytes(body)
    error_of(lambda: load_dataset(f"images:{path}"), "train/cat/0.png", "encrypted")


@BOTH
@pytest.mark.parametrize(
    ("files", "parts"),
    [
        ({"readme.txt": b"hello"}, ["holds no images"]),
        ({"cat/0.png": colour(0), "cat/1.png": colour(1)}, ["only one class folder (cat)"]),
        ({"stray.png": colour(0), **class_folders(2)}, ["stray.png", "outside any class folder"]),
        (split_folders() | {"train/stray.png": colour(0)}, ["train/stray.png", "outside"]),
        (split_folders() | {"test/fox/0.png": colour(0)}, ["class fox"]),
        (
            {f"train/{n}": b for n, b in class_folders(2).items()} | {"dev/a/0.png": colour(0)},
            ["no test, val or valid"],
        ),
    ],
)
def test_wrong_layouts(
    tmp_path: Path, write: Write, files: dict[str, bytes], parts: list[str]
) -> None:
    name = write(tmp_path, files)
    error_of(lambda: load_dataset(name), str(as_path(name)), *parts)


def test_missing_source_and_no_zip(tmp_path: Path) -> None:
    error_of(lambda: load_dataset(f"images:{tmp_path / 'none'}"), "none", "does not exist")
    (tmp_path / "text").write_bytes(b"hello")
    error_of(lambda: load_dataset(f"images:{tmp_path / 'text'}"), "text", "as a zip file")


@given(
    names=st.lists(
        st.lists(st.sampled_from(["train", "test", "val", "a", "b", ".c"]), max_size=3).map(
            lambda parts: "/".join([*parts, "x.png"])
        ),
        unique=True,
    ),
    random=st.randoms(use_true_random=False),
)
def test_layout_depends_on_the_names_alone(names: list[str], random: random_module.Random) -> None:
    def outcome(order: list[str]) -> Layout | str:
        try:
            return find_layout(order, "here")
        except DataError as error:
            return str(error)

    first = outcome(names)
    shuffled = list(names)
    random.shuffle(shuffled)
    assert outcome(shuffled) == first
    if isinstance(first, Layout):
        assert set(first.train).isdisjoint(first.test)
        assert first.train
        assert first.test


def test_a_fifth_is_split_off() -> None:
    names = [f"{kind}/{n}.png" for kind in "abc" for n in range(100)]
    layout = find_layout(names, "here")
    assert len(layout.test) == math.floor(len(names) / 5)
    assert sorted(layout.train + layout.test) == sorted(names)
    assert [layout.classes[target] for target in layout.train_targets] == [
        name[0] for name in layout.train
    ]
