"""Images in folders, one folder a class, from a directory or a zip file.

The layout is worked out from the names alone (`find_layout`), so that it is the same for a
directory and for a zip of it; only then are images decoded. Zip members are decoded in memory.
"""

from __future__ import annotations

import io
import os
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import Progress

from losspath.errors import DataError, wrap_os_errors
from losspath.extras import extra
from losspath.thesis.arrays import SIDE, fixed_permutation
from losspath.threads import available_cores

with extra("thesis"):
    from PIL import Image, UnidentifiedImageError

EXTENSIONS = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}
)
"""Names that end otherwise (in either case) are taken to be no images, and passed over."""

TEST_FOLDERS = ("test", "val", "valid")
"""Folders beside ``train`` that are taken as the test set; the first one present counts."""

SPLIT_SEED = 20_151
"""Seed of the permutation that splits images without ``train`` and ``test`` folders."""

# Only these decoders of Pillow run, whatever a file that bears one of the extensions really is.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
_MAX_FILE_BYTES = 1 << 28  # No image is decoded from more: the sizes in a zip may be made up.
_BLOCK = 32
# For small images the interpreter's lock costs more than a second thread gives (measured: 10,000
# images of 1 kB take 1.1 s in one thread and 1.7 s in two); large ones are decoded outside of it.
_THREAD_BYTES = 16_384

Bytes = npt.NDArray[np.uint8]
"""An array of unsigned bytes."""

Read = Callable[[str], bytes]
"""Returns the bytes of an image by its name."""


@dataclass(frozen=True)
class Layout:
    """Which images are for training and which for testing, and their classes.

    Attributes:
        train: names of the training images.
        train_targets: the class of each, as an index into `classes`.
        test: names of the test images.
        test_targets: the class of each.
        classes: the names of the class folders, sorted.
    """

    train: tuple[str, ...]
    train_targets: tuple[int, ...]
    test: tuple[str, ...]
    test_targets: tuple[int, ...]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class ImageSet:
    """Decoded images.

    Attributes:
        layout: where they came from.
        train: training pixels of shape (N, C, 32, 32), C = 1 if every image is grey, else 3.
        test: test pixels of shape (M, C, 32, 32).
    """

    layout: Layout
    train: Bytes
    test: Bytes


def read_images(source: Path, progress: bool = True) -> ImageSet:
    """Reads a directory or a zip file of images with one folder a class.

    With a folder ``train`` and one of ``test``, ``val`` or ``valid`` inside, these are the two
    sets; else a fixed fifth of all images, drawn regardless of class, is the test set. A single
    folder around everything is looked through. Hidden files, ``__MACOSX`` and files without one of
    `EXTENSIONS` are passed over; links to folders are followed.

    Every image is converted to grey if all images of the set are, else to RGB (transparency is
    dropped; of an animation, the first frame counts; orientation tags are not applied), and
    resized to 32×32 with Pillow's bilinear filter unless it has that size.

    Args:
        source: the directory or the zip file.
        progress: whether to show a bar on standard error if that is a terminal.

    Returns:
        The images, in an order that depends on their names alone.

    Raises:
        DataError: if `source` is missing or in no such layout, or an image cannot be decoded.
    """
    if source.is_dir():
        with wrap_os_errors(f"read {source}", DataError):
            sizes = dict(_files_below(source, (), frozenset({source.resolve()})))

        def read(name: str) -> bytes:
            return (source / name).read_bytes()

        return _decode_all(source, sizes, read, progress)
    if not source.exists():
        raise DataError(f"{source} does not exist: expected a folder or a zip file of images")
    with (
        _damage(f"cannot read {source} as a zip file", "expected a folder or a zip of images"),
        zipfile.ZipFile(source) as archive,
    ):
        members = [member for member in archive.infolist() if not member.is_dir()]
        sizes = {member.filename: member.file_size for member in members}
        return _decode_all(source, sizes, archive.read, progress)


def _files_below(
    folder: Path, parts: tuple[str, ...], above: frozenset[Path]
) -> Iterator[tuple[str, int]]:
    """Yields the names, relative to the outermost folder, and the sizes of all files."""
    with os.scandir(folder) as entries:
        for entry in entries:
            inside = (*parts, entry.name)
            if entry.is_dir():
                real = Path(entry.path).resolve()
                if real not in above:  # A link to a folder around itself would never end.
                    yield from _files_below(Path(entry.path), inside, above | {real})
            elif entry.is_file():
                yield "/".join(inside), entry.stat().st_size
            elif entry.is_symlink():
                # Leads nowhere: named all the same, so that reading it fails and says so.
                yield "/".join(inside), 0


def find_layout(names: Sequence[str], source: str) -> Layout:
    """Works out classes and the two sets from the names of all files.

    Args:
        names: paths relative to the outermost folder, with ``/`` between parts, in any order.
        source: what to call the whole in errors.

    Returns:
        The layout. Within given sets, images are in the order of their names; if the sets are
        split off here, in that of the permutation of `SPLIT_SEED`.

    Raises:
        DataError: if the names are in no layout described at `read_images`, there are fewer than
            two classes, or a class has no training image.
    """
    images = {
        name: PurePosixPath(name).parts for name in sorted(names) if _is_image(PurePosixPath(name))
    }
    if not images:
        raise DataError(
            f"{source} holds no images: expected one folder a class, with files that end in "
            f"{' '.join(sorted(EXTENSIONS))}"
        )
    images = _without_wrapping(images)
    tops = {parts[0] for parts in images.values() if len(parts) > 1}
    test_folder = next((folder for folder in TEST_FOLDERS if folder in tops), None)
    if "train" in tops and test_folder is not None:
        train = _labelled(_inside(images, "train"), source)
        test = _labelled(_inside(images, test_folder), source)
    elif "train" in tops and all(len(parts) > 1 for parts in _inside(images, "train").values()):
        raise DataError(
            f"{source} has a folder train of class folders, but no test, val or valid beside it: "
            "add one, or leave only the class folders to have a fifth of the images split off"
        )
    else:
        labelled = list(_labelled(images, source).items())
        order = [labelled[index] for index in fixed_permutation(len(labelled), SPLIT_SEED)]
        test_count = max(1, len(order) // 5)
        train, test = dict(order[test_count:]), dict(order[:test_count])
    return _as_layout(train, test, source)


def _is_image(path: PurePosixPath) -> bool:
    passed_over = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return path.suffix.lower() in EXTENSIONS and not passed_over


def _without_wrapping(images: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Drops folders around everything, as long as class folders are left inside."""
    while len({parts[0] for parts in images.values()}) == 1 and all(
        len(parts) > 2 for parts in images.values()
    ):
        images = {name: parts[1:] for name, parts in images.items()}
    return images


def _inside(images: dict[str, tuple[str, ...]], folder: str) -> dict[str, tuple[str, ...]]:
    """Returns the images in one of the outermost folders, seen from it."""
    return {
        name: parts[1:] for name, parts in images.items() if len(parts) > 1 and parts[0] == folder
    }


def _labelled(images: dict[str, tuple[str, ...]], source: str) -> dict[str, str]:
    """Returns the class folder of each image."""
    for name, parts in images.items():
        if len(parts) < 2:
            raise DataError(
                f"{source} holds the image {name} outside any class folder: "
                "move it into the folder of its class, or remove it"
            )
    return {name: parts[0] for name, parts in images.items()}


def _as_layout(train: dict[str, str], test: dict[str, str], source: str) -> Layout:
    classes = tuple(sorted(set(train.values())))
    if strangers := sorted(set(test.values()) - set(classes)):
        raise DataError(
            f"{source} has no training images of the class {strangers[0]}, but test images: "
            "expected every class in both sets; add training images or remove the test images"
        )
    if len(classes) < 2:
        raise DataError(
            f"{source} has only one class folder ({', '.join(classes)}): "
            "expected at least two, one a class"
        )
    index = {name: number for number, name in enumerate(classes)}
    return Layout(
        train=tuple(train),
        train_targets=tuple(index[name] for name in train.values()),
        test=tuple(test),
        test_targets=tuple(index[name] for name in test.values()),
        classes=classes,
    )


def _decode_all(source: Path, sizes: dict[str, int], read: Read, progress: bool) -> ImageSet:
    """Decodes the images among the named files."""
    layout = find_layout(tuple(sizes), str(source))
    names = layout.train + layout.test
    for name in names:
        if sizes[name] > _MAX_FILE_BYTES:
            raise DataError(
                f"{source}: {name} has {sizes[name]} bytes, expected an image of at most "
                f"{_MAX_FILE_BYTES}: make it smaller or remove it"
            )
    # In colour first: whether all images are grey is known only when all have been opened.
    pixels = np.empty((len(names), SIDE, SIDE, 3), dtype=np.uint8)
    grey = np.empty(len(names), dtype=np.bool_)

    def decode_block(start: int) -> int:
        block = names[start : start + _BLOCK]
        for place, name in enumerate(block, start):
            image = _decode(name, read, source)
            grey[place] = image.ndim == 2
            pixels[place] = image[..., np.newaxis] if image.ndim == 2 else image
        return len(block)

    _run_blocks(decode_block, len(names), sum(sizes[name] for name in names), progress)
    planes = pixels.transpose(0, 3, 1, 2)
    if grey.all():
        planes = planes[:, :1]
    return ImageSet(layout, planes[: len(layout.train)], planes[len(layout.train) :])


def _run_blocks(work: Callable[[int], int], count: int, size: int, progress: bool) -> None:
    """Calls `work` with the start of each block, in threads if images of this size gain by it.

    Each block writes to places of its own, and the error raised is that of the first block that
    has one, so that the outcome does not depend on the threads.
    """
    starts = range(0, count, _BLOCK)
    bar = Progress(
        *Progress.get_default_columns(),
        console=Console(stderr=True),
        transient=True,
        disable=not (progress and sys.stderr.isatty()),
    )
    with bar:
        task = bar.add_task("reading images", total=count)
        if size / count <= _THREAD_BYTES:
            for done in map(work, starts):
                bar.advance(task, done)
            return
        with ThreadPoolExecutor(min(8, available_cores())) as pool:
            try:
                for done in pool.map(work, starts):
                    bar.advance(task, done)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


def _decode(name: str, read: Read, source: Path) -> Bytes:
    """Returns an image as (32, 32) if it is grey, else (32, 32, 3)."""
    with _damage(f"{source}: cannot read {name}", "replace it or remove it"):
        data = read(name)
    with (
        _damage(f"{source}: cannot decode {name} as an image", "replace it or remove it"),
        Image.open(io.BytesIO(data), formats=_FORMATS) as image,
    ):
        plain = _eight_bit(image)
        if plain.size != (SIDE, SIDE):
            plain = plain.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        return np.asarray(plain)


@contextmanager
def _damage(failure: str, advice: str) -> Iterator[None]:
    """Turns whatever damaged or hostile bytes cause in zipfile and Pillow into a `DataError`.

    That is nearly anything: OSError, SyntaxError, ValueError, IndexError, struct.error, zlib.error,
    RuntimeError for an encrypted member, NotImplementedError for an unknown compression, and
    Pillow's DecompressionBombError for an image of too many pixels.
    """
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as cause:
        raise DataError(f"{failure} ({_in_one_line(cause)}): {advice}") from cause


def _eight_bit(image: Image.Image) -> Image.Image:
    """Converts to mode L if the image is grey, else to RGB."""
    mode = image.mode
    if mode.startswith("I"):
        # 16-bit grey. Pillow's own conversion to L would clip at 255 instead of scaling.
        values = np.asarray(image).clip(0, 65535) >> 8
        return Image.fromarray(values.astype(np.uint8))
    if mode == "F":
        raise ValueError("its pixels are floating-point numbers, expected 8 or 16 bits")
    if mode in ("L", "1", "LA", "La"):
        return image.convert("L")
    if mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns of the direct way.
    return image.convert("RGB")


def _in_one_line(error: Exception) -> str:
    # Pillow names the object in memory that it read from, which tells a user nothing.
    if isinstance(error, UnidentifiedImageError):
        return "no known image format"
    return " ".join(str(error).split()) or type(error).__name__
