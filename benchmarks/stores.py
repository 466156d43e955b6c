"""Where to keep the states: plain append-only files, Zarr, or HDF5.

    pip install zarr h5py
    python benchmarks/stores.py [--rows 3000]

Each store takes the same rows (LeNet-5's 61,706 float32), appended in portions of 17 rows as the
recorder does, and is read back whole. Processor time is what a training loop has to share; it
counts the whole process (compression off everywhere).
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from losspath.parameters import Entry, Layout
from losspath.recording import slots, store
from losspath.recording.disk import Files

COLUMNS = 61_706
PORTION = 17


def plain(directory, rows):
    layout = Layout((Entry("w", (COLUMNS,), "float32", "parameter", 0),))
    header = store.Header(layout, "float32", 1, {})
    store.write_header(directory, header)
    files, records, done = Files(directory, store.DATA_FILES), [], 0
    for start in range(0, len(rows), PORTION):
        part = rows[start : start + PORTION]
        raw = part.view(np.uint8).reshape(-1).data
        files.write(store.STATES, raw, start * header.row_bytes)
        for row, digest in enumerate(map(store.row_digest, part), start):
            records.append((slots.RECORD, 0, row, row, digest, 0, 0))
        if start % (8 * PORTION) == 0:
            files.sync(store.STATES)
            new = slots.sealed(records, done, 0).tobytes()
            for name in (store.RECORDS, store.RECORDS_COPY):
                files.write(name, new, done * slots.SLOT_BYTES)
                files.sync(name)
            done, records = done + len(records), []
    files.close()


def read_plain(directory):
    return np.fromfile(directory / store.STATES, "<f4")


def zarr_store(directory, rows):
    import zarr

    array = zarr.create_array(
        directory / "a.zarr",
        shape=(0, COLUMNS),
        chunks=(PORTION, COLUMNS),
        dtype="f4",
        compressors=None,
    )
    for start in range(0, len(rows), PORTION):
        array.append(rows[start : start + PORTION])


def read_zarr(directory):
    import zarr

    return zarr.open_array(directory / "a.zarr", mode="r")[:]


def hdf5(directory, rows):
    import h5py

    with h5py.File(directory / "a.h5", "w") as file:
        data = file.create_dataset(
            "a", shape=(0, COLUMNS), maxshape=(None, COLUMNS), chunks=(PORTION, COLUMNS), dtype="f4"
        )
        for start in range(0, len(rows), PORTION):
            part = rows[start : start + PORTION]
            data.resize(start + len(part), axis=0)
            data[start : start + len(part)] = part
            if start % (8 * PORTION) == 0:
                file.flush()


def read_hdf5(directory):
    import h5py

    with h5py.File(directory / "a.h5") as file:
        return file["a"][:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    rows = np.random.default_rng(0).standard_normal((PORTION, COLUMNS)).astype("f4")
    rows = np.concatenate([rows] * (options.rows // PORTION))
    stores = {"plain files": (plain, read_plain), "zarr": (zarr_store, read_zarr)}
    stores["hdf5"] = (hdf5, read_hdf5)
    print(f"{len(rows):,} rows of {COLUMNS:,} float32, {rows.nbytes / 1e9:.2f} GB")
    print(
        f"{'store':12} {'write CPU ms/row':>17} {'write ms/row':>13} {'read GB/s':>10} {'bytes':>7}"
    )
    for _ in range(options.repeats):
        for name, (write, read) in stores.items():
            directory = Path(tempfile.mkdtemp())
            wall, cpu = time.perf_counter(), time.process_time()
            write(directory, rows)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            began = time.perf_counter()
            assert read(directory).size == rows.size
            speed = rows.nbytes / 1e9 / (time.perf_counter() - began)
            size = sum(f.stat().st_size for f in directory.rglob("*") if f.is_file())
            print(
                f"{name:12} {1e3 * cpu / len(rows):17.3f} {1e3 * wall / len(rows):13.3f} "
                f"{speed:10.2f} {size / rows.nbytes:7.4f}"
            )
            shutil.rmtree(directory)


if __name__ == "__main__":
    main()
