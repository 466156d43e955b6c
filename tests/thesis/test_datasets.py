"""Data sets from small files that the tests make: no test needs real data or a network."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from losspath.errors import ArgumentError, DataError
from losspath.thesis import datasets, formats
from losspath.thesis.arrays import unit_images
from losspath.thesis.datasets import Dataset, load_dataset, sample_indices

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


# --------------------------------------------------------------------------------------------------
# Samples


@given(available=st.integers(1, 2000), data=st.data())
def test_samples_are_nested(available: int, data: st.DataObject) -> None:
    small = data.draw(st.integers(1, available))
    large = data.draw(st.integers(small, available + 5))
    first, second = sample_indices(small, available), sample_indices(large, available)
    assert first.dtype == torch.int64
    assert len(first) == small
    assert len(second) == min(large, available)
    assert torch.equal(first, second[:small])
    everything = sample_indices(available, available)
    assert sorted(everything.tolist()) == list(range(available))


def test_samples_ignore_seeds() -> None:
    # Recorded samples would silently become other samples if this changed.
    assert sample_indices(5, 60_000).tolist() == [12070, 46353, 45490, 6145, 30697]
    torch.manual_seed(1)
    first = sample_indices(10, 1000)
    torch.manual_seed(2)
    assert torch.equal(first, sample_indices(10, 1000))


@pytest.mark.parametrize(("count", "available"), [(0, 5), (-1, 5), (1, 0)])
def test_samples_of_nothing(count: int, available: int) -> None:
    with pytest.raises(ArgumentError, match="expected"):
        sample_indices(count, available)


# --------------------------------------------------------------------------------------------------
# Names, digits, the data set itself


@pytest.mark.parametrize("name", ["emnist", "images:", "MNIST"])
def test_unknown_name_lists_the_known_ones(name: str) -> None:
    with pytest.raises(ArgumentError, match="digits, mnist, cifar10, cifar100, images:DIR"):
        load_dataset(name)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


def test_digits(digits: Dataset) -> None:
    assert digits.train_inputs.shape == (1437, 1, 32, 32)
    assert digits.test_inputs.shape == (360, 1, 32, 32)
    assert digits.train_inputs.dtype == torch.float32
    assert digits.train_targets.dtype == torch.int64
    assert digits.channels == 1
    assert digits.classes == tuple("0123456789")
    assert set(digits.train_targets.tolist()) == set(digits.test_targets.tolist()) == set(range(10))
    assert abs(digits.train_inputs.double().mean()) < 1e-6
    assert abs(digits.train_inputs.double().std(correction=0) - 1) < 1e-6
    # Normalised by the training set alone.
    assert abs(digits.test_inputs.double().mean()) > 1e-6


def test_digits_are_split_without_loss(digits: Dataset) -> None:
    from sklearn.datasets import load_digits

    counts = np.bincount(load_digits().target)
    both = torch.cat([digits.train_targets, digits.test_targets])
    assert torch.bincount(both).tolist() == counts.tolist()


def test_digest_tells_data_apart(digits: Dataset) -> None:
    assert load_dataset("digits").digest == digits.digest
    assert len(digits.digest) == 32
    for name in ("train_inputs", "train_targets", "test_inputs", "test_targets"):
        changed = getattr(digits, name).clone()
        changed.view(-1)[-1] += 1
        changes: dict[str, Any] = {name: changed}
        assert replace(digits, **changes).digest != digits.digest
    reshaped = digits.train_inputs.view(-1, 1, 16, 64)
    assert replace(digits, train_inputs=reshaped).digest != digits.digest


def test_repr_is_short(digits: Dataset) -> None:
    assert len(repr(digits)) < 200


# --------------------------------------------------------------------------------------------------
# MNIST


def idx(values: Bytes) -> bytes:
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    return header + values.tobytes()


def mnist_files(train: int = 6, test: int = 4) -> dict[str, bytes]:
    return {
        "train-images-idx3-ubyte": idx(random_bytes(train, 28, 28, seed=1)),
        "train-labels-idx1-ubyte": idx(random_bytes(train, seed=2, high=10)),
        "t10k-images-idx3-ubyte": idx(random_bytes(test, 28, 28, seed=3)),
        "t10k-labels-idx1-ubyte": idx(random_bytes(test, seed=4, high=10)),
    }


def write_mnist(folder: Path, files: dict[str, bytes], zipped: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, body in files.items():
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(body))
        else:
            (folder / name).write_bytes(body)


def load_mnist(folder: Path) -> Dataset:
    return load_dataset("mnist", folder, download=False)


@pytest.mark.parametrize("folder", [".", "MNIST/raw", "mnist"])
@pytest.mark.parametrize("zipped", [True, False])
def test_mnist(tmp_path: Path, folder: str, zipped: bool) -> None:
    write_mnist(tmp_path / folder, mnist_files(), zipped)
    data = load_mnist(tmp_path)
    assert (data.name, data.title, data.channels) == ("mnist", "MNIST", 1)
    assert data.train_inputs.shape == (6, 1, 32, 32)
    assert data.test_inputs.shape == (4, 1, 32, 32)
    assert data.train_targets.tolist() == random_bytes(6, seed=2, high=10).tolist()
    assert data.test_targets.tolist() == random_bytes(4, seed=4, high=10).tolist()
    expected = (unit_images(random_bytes(6, 28, 28, seed=1)[:, None]) - 0.1307) / 0.3081
    torch.testing.assert_close(data.train_inputs, expected)


@pytest.mark.parametrize(
    ("name", "body", "parts"),
    [
        ("train-images-idx3-ubyte", b"", ["an empty file"]),
        ("train-images-idx3-ubyte", b"\x1f\x8b\x08\x00", ["expected it to begin with 00000803"]),
        ("train-images-idx3-ubyte", b"\0\0\x08\x03\0\0", ["ends within its header"]),
        ("train-images-idx3-ubyte", idx(random_bytes(6, 28, 28))[:-1], ["4704 bytes", "4703 came"]),
        ("train-images-idx3-ubyte", idx(random_bytes(6, 28, 28)) + b"x", ["more came"]),
        ("train-images-idx3-ubyte", idx(random_bytes(6, 28, 27)), ["(28, 27)", "(28, 28)"]),
        ("train-images-idx3-ubyte", idx(random_bytes(5, 28, 28)), ["5 images", "6 labels"]),
        ("train-images-idx3-ubyte", idx(random_bytes(0, 28, 28)), ["no items"]),
        ("t10k-labels-idx1-ubyte", idx(random_bytes(4, 1)), ["00000801", "00000802"]),
        ("t10k-labels-idx1-ubyte", idx(np.array([0, 1, 10, 2], np.uint8)), ["the label 10"]),
        # A count that no file has must not be believed.
        ("t10k-labels-idx1-ubyte", b"\0\0\x08\x01\xff\xff\xff\xff\x01", ["4294967295", "1 came"]),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_mnist(
    tmp_path: Path, name: str, body: bytes, parts: list[str], zipped: bool
) -> None:
    write_mnist(tmp_path, mnist_files() | {name: body}, zipped)
    error_of(lambda: load_mnist(tmp_path), name, *parts)


@pytest.mark.parametrize("kind", ["truncated", "flipped", "no gzip"])
def test_damaged_gzip(tmp_path: Path, kind: str) -> None:
    write_mnist(tmp_path, mnist_files(), zipped=True)
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    body = bytearray(path.read_bytes())
    if kind == "truncated":
        del body[len(body) // 2 :]
    elif kind == "flipped":
        body[-6] ^= 1  # in the checksum
    else:
        body[:] = b"not gzip at all"
    path.write_bytes(body)
    error_of(lambda: load_mnist(tmp_path), str(path), "get it again")


def test_missing_mnist_is_named(tmp_path: Path) -> None:
    error_of(
        lambda: load_mnist(tmp_path),
        str(tmp_path),
        *(f"{name}.gz" for name in mnist_files()),
        *datasets._MNIST_URLS,
    )
    files = mnist_files()
    del files["t10k-labels-idx1-ubyte"]
    write_mnist(tmp_path / "MNIST" / "raw", files, zipped=True)
    with pytest.raises(DataError) as caught:
        load_mnist(tmp_path)
    assert "t10k-labels-idx1-ubyte.gz" in str(caught.value)
    assert str(tmp_path / "MNIST" / "raw") in str(caught.value)
    assert "train-images" not in str(caught.value)


class FakeFetch:
    """Stands in for the download: writes prepared files, and remembers what was asked."""

    def __init__(self, bodies: dict[str, bytes]) -> None:
        self.bodies = bodies
        self.calls: list[tuple[object, str, Path, str]] = []

    def __call__(
        self, url: object, filename: str, directory: Path, known_hash: str, progress: bool = True
    ) -> Path:
        self.calls.append((url, filename, directory, known_hash))
        directory.mkdir(parents=True, exist_ok=True)
        (directory / filename).write_bytes(self.bodies[filename])
        return directory / filename


def test_mnist_is_downloaded_into_data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeFetch({f"{name}.gz": gzip.compress(body) for name, body in mnist_files().items()})
    monkeypatch.setattr(datasets, "fetch", fake)
    first = load_dataset("mnist", tmp_path / "new")
    assert [call[1] for call in fake.calls] == list(fake.bodies)
    assert {call[2] for call in fake.calls} == {tmp_path / "new"}
    assert fake.calls[0][0] == [
        "https://ossci-datasets.s3.amazonaws.com/mnist/train-images-idx3-ubyte.gz",
        "https://storage.googleapis.com/cvdf-datasets/mnist/train-images-idx3-ubyte.gz",
    ]
    assert fake.calls[0][3] == "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873"
    assert load_dataset("mnist", tmp_path / "new").digest == first.digest
    assert len(fake.calls) == 4


def test_default_directory_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path, mnist_files(), zipped=True)
    monkeypatch.setenv("LOSSPATH_DATA", str(tmp_path))
    assert len(load_dataset("mnist", download=False).train_targets) == 6


# --------------------------------------------------------------------------------------------------
# CIFAR


def records(count: int, labels: int, classes: int, seed: int) -> bytes:
    body = random_bytes(count, labels + 3072, seed=seed)
    body[:, :labels] %= classes
    return body.tobytes()


def cifar_files(name: str) -> tuple[str, dict[str, bytes]]:
    """Returns the folder and the files of a small data set in the official layout."""
    if name == "cifar10":
        names = "\n".join(f"kind{number}" for number in range(10)) + "\n\n"
        files = {f"data_batch_{k}.bin": records(2, 1, 10, seed=k) for k in range(1, 6)}
        files |= {"test_batch.bin": records(3, 1, 10, 9), "batches.meta.txt": names.encode()}
        return "cifar-10-batches-bin", files
    names = "\n".join(f"kind{number}" for number in range(100)) + "\n"
    files = {"train.bin": records(4, 2, 100, 1), "test.bin": records(3, 2, 100, 2)}
    return "cifar-100-binary", files | {"fine_label_names.txt": names.encode()}


def tar_gz(folder: str, files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, body in (files | {"readme.html": b"<html>"}).items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
    return buffer.getvalue()


ARCHIVES = {"cifar10": "cifar-10-binary.tar.gz", "cifar100": "cifar-100-binary.tar.gz"}


def write_cifar(name: str, where: Path, files: dict[str, bytes], layout: str) -> None:
    """Writes the archive, or the folder inside `where`, or the files in `where` itself."""
    folder = cifar_files(name)[0]
    if layout == "archive":
        (where / ARCHIVES[name]).write_bytes(tar_gz(folder, files))
        return
    place = where / folder if layout == "folder" else where
    place.mkdir(exist_ok=True)
    for filename, body in files.items():
        (place / filename).write_bytes(body)


LAYOUTS = ["archive", "folder", "itself"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar(tmp_path: Path, name: str, layout: str) -> None:
    _, files = cifar_files(name)
    write_cifar(name, tmp_path, files, layout)
    data = load_dataset(name, tmp_path, download=False)
    labels = 1 if name == "cifar10" else 2
    train = b"".join(body for key, body in files.items() if key.startswith(("data", "train")))
    expected = np.frombuffer(train, np.uint8).reshape(-1, labels + 3072)
    assert data.train_targets.tolist() == expected[:, labels - 1].tolist()
    assert data.train_inputs.shape == (len(expected), 3, 32, 32)
    assert data.test_inputs.shape == (3, 3, 32, 32)
    assert data.channels == 3
    assert data.classes[3] == "kind3"
    assert len(data.classes) == (10 if name == "cifar10" else 100)
    spec = datasets._CIFAR10 if name == "cifar10" else datasets._CIFAR100
    planes = torch.from_numpy(expected[:, labels:].reshape(-1, 3, 32, 32).copy()) / 255
    mean, std = torch.tensor(spec.mean), torch.tensor(spec.std)
    restored = data.train_inputs * std.view(1, 3, 1, 1) + mean.view(1, 3, 1, 1)
    torch.testing.assert_close(restored, planes)


@pytest.mark.parametrize("layout", ["archive", "folder"])
@pytest.mark.parametrize(
    ("filename", "body", "parts"),
    [
        ("data_batch_3.bin", b"x" * 3074, ["3074 bytes", "multiple of 3073"]),
        ("test_batch.bin", b"", ["0 bytes"]),
        ("data_batch_1.bin", b"\x0a" + b"x" * 3072, ["the label 10"]),
        ("batches.meta.txt", b"one\ntwo\n", ["lists 2 classes, expected 10"]),
        ("batches.meta.txt", b"\xff\xfe", ["not a text of class names"]),
    ],
)
def test_damaged_cifar(
    tmp_path: Path, filename: str, body: bytes, parts: list[str], layout: str
) -> None:
    _, files = cifar_files("cifar10")
    write_cifar("cifar10", tmp_path, files | {filename: body}, layout)
    error_of(lambda: load_dataset("cifar10", tmp_path, download=False), filename, *parts)


@pytest.mark.parametrize("kind", ["truncated", "checksum", "not tar", "not gzip", "huge"])
def test_damaged_archive(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, files = cifar_files("cifar10")
    body = bytearray(tar_gz(folder, files))
    if kind == "truncated":
        del body[len(body) // 2 :]
    elif kind == "checksum":
        body[-6] ^= 1
    elif kind == "not tar":
        body[:] = gzip.compress(b"nothing like a tar file" * 100)
    elif kind == "not gzip":
        body[:] = b"nothing like a gzip file"
    else:
        monkeypatch.setattr(formats, "_MAX_MEMBER_BYTES", 10)
    path = tmp_path / ARCHIVES["cifar10"]
    path.write_bytes(body)
    error_of(lambda: load_dataset("cifar10", tmp_path, download=False), str(path))


def test_archive_without_a_member(tmp_path: Path) -> None:
    _, files = cifar_files("cifar100")
    del files["test.bin"]
    write_cifar("cifar100", tmp_path, files, "archive")
    error_of(
        lambda: load_dataset("cifar100", tmp_path, download=False),
        "lacks cifar-100-binary/test.bin",
    )


def test_missing_cifar_names_archive_and_url(tmp_path: Path) -> None:
    error_of(
        lambda: load_dataset("cifar10", tmp_path, download=False),
        str(tmp_path / "cifar-10-binary.tar.gz"),
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    )


def test_cifar_is_downloaded_into_data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeFetch({ARCHIVES["cifar100"]: tar_gz(*cifar_files("cifar100"))})
    monkeypatch.setattr(datasets, "fetch", fake)
    data = load_dataset("cifar100", tmp_path)
    assert len(data.train_targets) == 4
    assert [(name, where) for _, name, where, _ in fake.calls] == [(ARCHIVES["cifar100"], tmp_path)]
