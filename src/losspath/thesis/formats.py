"""Readers of the file formats that MNIST and CIFAR come in: IDX and CIFAR's binary records.

Both are plain bytes behind at most a gzip or tar layer. Nothing is unpacked to disk, and nothing is
ever unpickled. Every reader checks what it reads and names the file in its `DataError`.
"""

from __future__ import annotations

import gzip
import math
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from losspath.errors import DataError

Bytes = npt.NDArray[np.uint8]
"""An array of unsigned bytes."""

_IDX_UNSIGNED_BYTE = 0x08
_CIFAR_SHAPE = (3, 32, 32)
_CHUNK_BYTES = 1 << 20
_MAX_MEMBER_BYTES = 1 << 30  # A member of the real archives has at most 150 MB.


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns whatever a missing or damaged file causes into a `DataError` that names it."""
    try:
        yield
    # BadGzipFile is an OSError too, but speaks of the content and not of the disk. A ValueError
    # comes from tarfile for numbers in a header that are none.
    except (EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError, ValueError) as cause:
        raise DataError(
            f"{path} is damaged or incomplete ({cause}): delete it and get it again"
        ) from cause
    except OSError as cause:
        raise DataError(f"cannot read {path}: {cause.strerror or cause}") from cause


def read_idx(path: Path, shape: tuple[int, ...]) -> Bytes:
    """Reads an IDX file of unsigned bytes.

    Args:
        path: the file; gzipped if its name ends in ``.gz``.
        shape: the expected shape of one item: ``()`` for labels, (height, width) for images.

    Returns:
        An array of shape (N, *shape).

    Raises:
        DataError: if the file cannot be read, is damaged, or holds something else.
    """
    with _reading(path), _open(path) as stream:
        magic = stream.read(4)
        dimensions = 1 + len(shape)
        if magic != bytes((0, 0, _IDX_UNSIGNED_BYTE, dimensions)):
            raise DataError(
                f"{path} is not an IDX file of bytes in {dimensions} dimensions: expected it to "
                f"begin with 0000080{dimensions}, got {magic.hex() or 'an empty file'}"
            )
        header = stream.read(4 * dimensions)
        if len(header) < 4 * dimensions:
            raise DataError(f"{path} ends within its header: delete it and get it again")
        count, *item = (int(size) for size in np.frombuffer(header, dtype=">u4"))
        if tuple(item) != shape:
            raise DataError(f"{path} holds items of shape {tuple(item)}, expected {shape}")
        if count == 0:
            raise DataError(f"{path} holds no items: expected at least one")
        expected = count * math.prod(shape)
        body = _read_up_to(stream, expected + 1)
    if len(body) != expected:
        came = f"{len(body)} came" if len(body) < expected else "more came"
        raise DataError(
            f"{path} should hold {expected} bytes after its header, but {came}: "
            "delete it and get it again"
        )
    return np.frombuffer(body, dtype=np.uint8).reshape(count, *shape)


def _open(path: Path) -> BinaryIO | gzip.GzipFile:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def _read_up_to(stream: BinaryIO | gzip.GzipFile, limit: int) -> bytearray:
    """Reads at most `limit` bytes; memory grows with what is there, not with what is claimed."""
    result = bytearray()
    while chunk := stream.read(min(_CHUNK_BYTES, limit - len(result))):
        result += chunk
    return result


def read_labelled_idx(
    images: Path, labels: Path, shape: tuple[int, int], classes: int
) -> tuple[Bytes, npt.NDArray[np.int64]]:
    """Reads a pair of IDX files: grey images and their labels.

    Args:
        images: the file of images.
        labels: the file of labels.
        shape: height and width of an image.
        classes: the number of classes; labels must be below it.

    Returns:
        Pixels of shape (N, 1, height, width), and labels of shape (N,).

    Raises:
        DataError: if a file cannot be read, or the two do not fit together.
    """
    pixels = read_idx(images, shape)
    targets = read_idx(labels, ())
    if len(pixels) != len(targets):
        raise DataError(
            f"{images} holds {len(pixels)} images, but {labels} holds {len(targets)} labels: "
            "expected as many; get both again from one source"
        )
    _check_labels(targets, classes, str(labels))
    return pixels[:, np.newaxis], targets.astype(np.int64)


def _check_labels(labels: Bytes, classes: int, source: str) -> None:
    highest = int(labels.max())
    if highest >= classes:
        raise DataError(
            f"{source} holds the label {highest}, expected 0 to {classes - 1}: "
            "the file is damaged or of another data set"
        )


def cifar_records(
    data: bytes, label_bytes: int, classes: int, source: str
) -> tuple[Bytes, npt.NDArray[np.int64]]:
    """Splits CIFAR's binary records: label bytes, then the red, green and blue planes.

    Args:
        data: the bytes of one file, a whole number of records.
        label_bytes: how many labels begin a record; the last of them is the target (CIFAR-100 puts
            the coarse label before the fine one).
        classes: the number of classes; targets must be below it.
        source: what to call the file in errors.

    Returns:
        Pixels of shape (N, 3, 32, 32), and targets of shape (N,).

    Raises:
        DataError: if the size is no multiple of the record's, or a label is out of range.
    """
    record = label_bytes + math.prod(_CIFAR_SHAPE)
    if not data or len(data) % record:
        raise DataError(
            f"{source} has {len(data)} bytes, expected a multiple of {record}, the size of a "
            "record: the file is incomplete or in another format; get it again"
        )
    records = np.frombuffer(data, dtype=np.uint8).reshape(-1, record)
    targets = records[:, label_bytes - 1]
    _check_labels(targets, classes, source)
    return records[:, label_bytes:].reshape(-1, *_CIFAR_SHAPE), targets.astype(np.int64)


def class_names(data: bytes, count: int, source: str) -> tuple[str, ...]:
    """Reads a list of class names, one a line.

    Args:
        data: the bytes of the file.
        count: how many names there must be.
        source: what to call the file in errors.

    Returns:
        The names in the order of their labels.

    Raises:
        DataError: if it is not text or holds another number of names.
    """
    try:
        lines = data.decode("utf-8").split("\n")
    except UnicodeDecodeError as cause:
        raise DataError(f"{source} is not a text of class names: get it again") from cause
    names = tuple(line.strip() for line in lines if line.strip())
    if len(names) != count:
        raise DataError(f"{source} lists {len(names)} classes, expected {count}: get it again")
    return names


def read_folder(folder: Path, names: Sequence[str]) -> dict[str, bytes]:
    """Reads the named files of a folder.

    Args:
        folder: where they are.
        names: their names.

    Returns:
        The bytes of each file by its name.

    Raises:
        DataError: if one cannot be read.
    """
    contents: dict[str, bytes] = {}
    for name in names:
        with _reading(folder / name):
            contents[name] = (folder / name).read_bytes()
    return contents


def read_tar(archive: Path, prefix: str, names: Sequence[str]) -> dict[str, bytes]:
    """Reads the named members of a gzipped tar archive, in one pass and without unpacking.

    Args:
        archive: the archive.
        prefix: the folder in the archive that holds the members, without a slash at its end.
        names: their names in that folder; other members are passed over.

    Returns:
        The bytes of each member by its name, without `prefix`.

    Raises:
        DataError: if the archive is damaged or lacks a member.
    """
    wanted = {f"{prefix}/{name}": name for name in names}
    contents: dict[str, bytes] = {}
    with _reading(archive), gzip.open(archive, "rb") as stream:
        with tarfile.open(fileobj=stream, mode="r|") as members:
            for member in members:
                name = wanted.get(member.name)
                if name is None or not member.isfile():
                    continue
                if member.size > _MAX_MEMBER_BYTES:
                    raise DataError(
                        f"{archive} holds {member.name} of {member.size} bytes, "
                        f"expected at most {_MAX_MEMBER_BYTES}"
                    )
                body = members.extractfile(member)
                contents[name] = body.read() if body is not None else b""
        # The checksum stands at the end of the gzip stream, behind what tar reads.
        while stream.read(_CHUNK_BYTES):
            pass
    missing = [member for member, name in wanted.items() if name not in contents]
    if missing:
        raise DataError(
            f"{archive} lacks {', '.join(missing)}: it is not the binary version of the data set, "
            "or it is damaged; get it again"
        )
    return contents
