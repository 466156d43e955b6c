"""Data sets for the reference networks, as tensors in memory.

`load_dataset` gives every data set in one form: 32×32 images, resized and normalised once, and
integer classes. What is missing is downloaded, where a public download exists.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import xxhash

from losspath.errors import ArgumentError, DataError
from losspath.extras import extra
from losspath.thesis import formats
from losspath.thesis.arrays import (
    channel_statistics,
    fixed_permutation,
    normalise_,
    unit_images,
)
from losspath.thesis.downloads import default_data_directory, fetch
from losspath.thesis.image_folders import read_images

SAMPLE_SEED = 1_712
"""Seed of the permutation behind `sample_indices`; no run's seed changes it."""

DIGITS_SEED = 1_797
"""Seed of the permutation that splits scikit-learn's digits."""

DIGITS_TRAIN = 1_437
"""How many of the 1797 digits are for training: four fifths."""

_IMAGES_PREFIX = "images:"


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set for classification, ready for training.

    Attributes:
        name: the name it was asked by, such as ``"mnist"`` or ``"images:/some/dir"``.
        title: how to call it in figures, such as ``"MNIST"``.
        train_inputs: normalised images, float32 of shape (N, C, 32, 32).
        train_targets: their classes, int64 of shape (N,).
        test_inputs: normalised images, float32 of shape (M, C, 32, 32).
        test_targets: their classes, int64 of shape (M,).
        classes: the names of the classes, in the order of the targets.
    """

    name: str
    title: str
    train_inputs: torch.Tensor = field(repr=False)
    train_targets: torch.Tensor = field(repr=False)
    test_inputs: torch.Tensor = field(repr=False)
    test_targets: torch.Tensor = field(repr=False)
    classes: tuple[str, ...]

    @property
    def channels(self) -> int:
        """The number of channels of an image: 1 (grey) or 3 (red, green, blue)."""
        return int(self.train_inputs.shape[1])

    @cached_property
    def digest(self) -> str:
        """The XXH3-128 hash, in hexadecimal, of the shapes and bytes of the four tensors."""
        state = xxhash.xxh3_128()
        for tensor in (
            self.train_inputs,
            self.train_targets,
            self.test_inputs,
            self.test_targets,
        ):
            state.update(str(tuple(tensor.shape)).encode())
            state.update(tensor.detach().cpu().contiguous().numpy().data)
        return state.hexdigest()


@dataclass(frozen=True)
class _Archive:
    """One of the CIFAR data sets in its binary version."""

    title: str
    filename: str
    url: str
    known_hash: str
    folder: str
    train: tuple[str, ...]
    test: str
    names: str
    label_bytes: int
    class_count: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


# Means and standard deviations are those of the training images, as commonly used.
_CIFAR10 = _Archive(
    title="CIFAR-10",
    filename="cifar-10-binary.tar.gz",
    url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    known_hash="sha256:c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    folder="cifar-10-batches-bin",
    train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    test="test_batch.bin",
    names="batches.meta.txt",
    label_bytes=1,
    class_count=10,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.247, 0.243, 0.261),
)
_CIFAR100 = _Archive(
    title="CIFAR-100",
    filename="cifar-100-binary.tar.gz",
    url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
    known_hash="sha256:58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    folder="cifar-100-binary",
    train=("train.bin",),
    test="test.bin",
    names="fine_label_names.txt",
    label_bytes=2,
    class_count=100,
    mean=(0.5071, 0.4867, 0.4408),
    std=(0.2675, 0.2565, 0.2761),
)

_MNIST_URLS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
# MD5 of the gzipped files; the names are in the order (train, test) of (images, labels).
_MNIST_HASHES = {
    "train-images-idx3-ubyte": "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte": "md5:d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte": "md5:9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte": "md5:ec29112dd5afa0611ce80d1b7f02629c",
}
_MNIST_FOLDERS = (".", "MNIST/raw", "mnist")
_MNIST_SHAPE = (28, 28)
_MNIST_MEAN, _MNIST_STD = 0.1307, 0.3081


@dataclass(frozen=True)
class _Request:
    """What `load_dataset` was asked."""

    name: str
    directory: Path
    download: bool
    progress: bool


def load_dataset(
    name: str,
    data_dir: str | Path | None = None,
    *,
    download: bool = True,
    progress: bool = True,
) -> Dataset:
    """Loads a data set by its name.

    ========== =============================================================== ================
    name       content                                                         normalised by
    ========== =============================================================== ================
    digits     1437 + 360 digits of scikit-learn, 8×8, split here              its training set
    mnist      60,000 + 10,000 digits, 28×28                                   .1307 and .3081
    cifar10    50,000 + 10,000 photographs of 10 classes, 32×32                constants
    cifar100   50,000 + 10,000 photographs of 100 classes (fine labels)        constants
    images:DIR a folder or zip file of images, one folder a class; see         its training set
               `losspath.thesis.image_folders.read_images`
    ========== =============================================================== ================

    "Its training set" means the mean and the standard deviation of the training images after
    decoding and resizing: one number each for digits, one a channel for images, where a channel of
    one constant value becomes zeros.

    Args:
        name: one of these names.
        data_dir: where the files of mnist, cifar10 or cifar100 are looked for, and downloaded to;
            by default `losspath.thesis.downloads.default_data_directory`. MNIST's four IDX
            files, gzipped or not, may also be in ``MNIST/raw`` or ``mnist`` inside; CIFAR is read
            from the archive of its binary version, or from the folder unpacked from it, which may
            be `data_dir` itself. Files found there are taken as they are; only downloads are
            checked against the known hashes. Not used for digits and images.
        download: whether missing files may be downloaded.
        progress: whether to show progress on standard error if that is a terminal.

    Returns:
        The data set: float32 images of shape (N, C, 32, 32).

    Raises:
        ArgumentError: if there is no data set of that name.
        DataError: if files are missing and cannot be downloaded, or are damaged.
    """
    directory = default_data_directory() if data_dir is None else Path(data_dir).expanduser()
    request = _Request(name, directory, download, progress)
    if name in _LOADERS:
        return _LOADERS[name](request)
    if name.startswith(_IMAGES_PREFIX) and name != _IMAGES_PREFIX:
        return _load_images(request)
    known = ", ".join((*_LOADERS, "images:DIR"))
    raise ArgumentError(f"there is no data set named {name!r}: expected one of {known}")


def sample_indices(count: int, available: int) -> torch.Tensor:
    """Returns the first `count` entries of one fixed permutation of ``range(available)``.

    The permutation depends on `available` alone (it is
    `losspath.thesis.arrays.fixed_permutation` with the seed `SAMPLE_SEED`), so that a smaller
    sample is the beginning of a larger one, in every run.

    Args:
        count: how many to take; all are returned if this is more than `available`.
        available: how many there are.

    Returns:
        Distinct indices, int64 of shape (min(count, available),).

    Raises:
        ArgumentError: if `count` or `available` is less than 1.
    """
    if count < 1:
        raise ArgumentError(f"expected a sample of at least 1, got {count}")
    if available < 1:
        raise ArgumentError(f"expected at least 1 example to sample from, got {available}")
    return torch.from_numpy(fixed_permutation(available, SAMPLE_SEED)[:count])


def _load_digits(request: _Request) -> Dataset:
    with extra("thesis"):
        from sklearn.datasets import load_digits  # Takes a second, and only this data set needs it.

    raw = load_digits()
    order = fixed_permutation(len(raw.target), DIGITS_SEED)
    inputs = unit_images(raw.images[order][:, np.newaxis], white=16.0)
    targets = torch.from_numpy(raw.target[order].astype(np.int64))
    train = inputs[:DIGITS_TRAIN].double()
    normalise_(inputs, [train.mean().item()], [train.std(correction=0).item()])
    return Dataset(
        name=request.name,
        title="Digits (scikit-learn)",
        train_inputs=inputs[:DIGITS_TRAIN].clone(),
        train_targets=targets[:DIGITS_TRAIN].clone(),
        test_inputs=inputs[DIGITS_TRAIN:].clone(),
        test_targets=targets[DIGITS_TRAIN:].clone(),
        classes=tuple(str(digit) for digit in range(10)),
    )


def _load_mnist(request: _Request) -> Dataset:
    train_images, train_labels, test_images, test_labels = _mnist_files(request)

    def load(images: Path, labels: Path) -> tuple[torch.Tensor, torch.Tensor]:
        pixels, targets = formats.read_labelled_idx(images, labels, _MNIST_SHAPE, classes=10)
        inputs = normalise_(unit_images(pixels), [_MNIST_MEAN], [_MNIST_STD])
        return inputs, torch.from_numpy(targets)

    return Dataset(
        request.name,
        "MNIST",
        *load(train_images, train_labels),
        *load(test_images, test_labels),
        classes=tuple(str(digit) for digit in range(10)),
    )


def _mnist_files(request: _Request) -> list[Path]:
    """Returns the paths of the four files, in the order of `_MNIST_HASHES`."""

    def find(folder: Path, name: str) -> Path | None:
        candidates = (folder / name, folder / f"{name}.gz")
        return next((path for path in candidates if path.is_file()), None)

    # One folder for all four, so that files of different sources are not mixed; the fullest one,
    # so that what is missing is completed there.
    folders = [request.directory / folder for folder in _MNIST_FOLDERS]
    folder = max(folders, key=lambda place: sum(find(place, n) is not None for n in _MNIST_HASHES))
    missing = [f"{name}.gz" for name in _MNIST_HASHES if find(folder, name) is None]
    if missing and not request.download:
        raise DataError(
            f"MNIST is not complete in {request.directory}: put {', '.join(missing)} "
            f"(from {' or '.join(_MNIST_URLS)}) into {folder.absolute()}, or allow the download"
        )
    return [
        find(folder, name)
        or fetch(
            [f"{url}{name}.gz" for url in _MNIST_URLS],
            f"{name}.gz",
            folder,
            known_hash,
            request.progress,
        )
        for name, known_hash in _MNIST_HASHES.items()
    ]


def _load_cifar(request: _Request, archive: _Archive) -> Dataset:
    source, contents = _cifar_contents(request, archive)

    def load(*members: str) -> tuple[torch.Tensor, torch.Tensor]:
        parts = [
            # Taken out of `contents`, so that the bytes are not kept beside the arrays.
            formats.cifar_records(
                contents.pop(member),
                archive.label_bytes,
                archive.class_count,
                f"{source}: {member}",
            )
            for member in members
        ]
        inputs = unit_images(np.concatenate([pixels for pixels, _ in parts]))
        targets = np.concatenate([labels for _, labels in parts])
        return normalise_(inputs, archive.mean, archive.std), torch.from_numpy(targets)

    classes = formats.class_names(
        contents[archive.names], archive.class_count, f"{source}: {archive.names}"
    )
    return Dataset(
        request.name, archive.title, *load(*archive.train), *load(archive.test), classes=classes
    )


def _cifar_contents(request: _Request, archive: _Archive) -> tuple[Path, dict[str, bytes]]:
    """Returns where the files of a CIFAR data set were found, and their bytes by name."""
    needed = (*archive.train, archive.test, archive.names)
    for folder in (request.directory / archive.folder, request.directory):
        if all((folder / name).is_file() for name in needed):
            return folder, formats.read_folder(folder, needed)
    path = request.directory / archive.filename
    if not path.is_file():
        if not request.download:
            raise DataError(
                f"{archive.title} is not in {request.directory}: put {archive.filename} (from "
                f"{archive.url}) at {path.absolute()}, or allow the download"
            )
        fetch(
            archive.url, archive.filename, request.directory, archive.known_hash, request.progress
        )
    return path, formats.read_tar(path, archive.folder, needed)


def _load_images(request: _Request) -> Dataset:
    source = Path(request.name.removeprefix(_IMAGES_PREFIX)).expanduser()
    images = read_images(source, request.progress)
    mean, std = channel_statistics(images.train)

    def load(pixels: npt.NDArray[np.uint8]) -> torch.Tensor:
        return normalise_(unit_images(pixels), mean, std)

    return Dataset(
        name=request.name,
        title=source.resolve().stem if source.is_file() else source.resolve().name,
        train_inputs=load(images.train),
        train_targets=torch.tensor(images.layout.train_targets, dtype=torch.int64),
        test_inputs=load(images.test),
        test_targets=torch.tensor(images.layout.test_targets, dtype=torch.int64),
        classes=images.layout.classes,
    )


_LOADERS: dict[str, Callable[[_Request], Dataset]] = {
    "digits": _load_digits,
    "mnist": _load_mnist,
    "cifar10": lambda request: _load_cifar(request, _CIFAR10),
    "cifar100": lambda request: _load_cifar(request, _CIFAR100),
}
