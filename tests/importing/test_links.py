"""Runs that refer to checkpoints: what is read is theirs, or an error."""

import json
import os
import shutil
import time

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import losspath
from losspath import Recorder, Trajectory, import_checkpoints
from losspath.errors import ArgumentError, DamagedError, ModelError, StoreError
from losspath.importing import links, places
from losspath.recording.repair import repair_trajectory

STEPS = (0, 5, 10, 25)


def network(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 3)
    )


def state(step, dtype=torch.float32):
    generator = torch.Generator().manual_seed(step)
    return {
        name: torch.randn(tensor.shape, generator=generator).to(dtype)
        if tensor.is_floating_point()
        else torch.tensor(step)
        for name, tensor in network().state_dict().items()
    }


def save(folder, form, steps=STEPS, dtype=torch.float32):
    folder.mkdir(exist_ok=True)
    for step in steps:
        if form == "safetensors":
            save_file(state(step, dtype), folder / f"step-{step}.safetensors")
        elif form == "torch":
            torch.save({"model": state(step, dtype), "step": step}, folder / f"step-{step}.pt")
        else:
            (folder / f"checkpoint-{step}").mkdir()
            save_file(state(step, dtype), folder / f"checkpoint-{step}" / "model.safetensors")
    return str(folder / "*")


@pytest.mark.parametrize("form", ["safetensors", "torch", "folders"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_it_is_the_run_that_copies_are(tmp_path, form, dtype):
    pattern = save(tmp_path / "saved", form, dtype=dtype)
    linked = import_checkpoints(pattern, tmp_path / "linked", link=True)
    copied = import_checkpoints(pattern, tmp_path / "copied")
    assert linked.is_linked
    assert not copied.is_linked
    assert linked.digest == copied.digest
    assert linked[:].tobytes() == copied[:].tobytes()
    assert linked[::-1].tobytes() == copied[::-1].tobytes()
    count = linked.parameter_count
    for start, stop in ((0, count), (3, 50), (47, 49), (count - 1, count), (5, 5)):
        found = linked.read_columns(start, stop, [3, 0, 1])
        assert found.tobytes() == copied.read_columns(start, stop, [3, 0, 1]).tobytes()
    for index in range(4):
        assert linked.sides(index).keys() == copied.sides(index).keys()
        for name, tensor in linked.sides(index).items():
            assert torch.equal(tensor, copied.sides(index)[name])
    assert not (tmp_path / "linked" / "states.bin").stat().st_size
    assert (tmp_path / "copied" / "states.bin").stat().st_size
    assert linked.notes == copied.notes == []


def test_options_of_the_import_hold_for_reading(tmp_path):
    folder = tmp_path / "saved"
    folder.mkdir()
    for step in STEPS:
        inner = {f"net.{name}": tensor for name, tensor in state(step).items()}
        torch.save({"a": {"model": inner}, "b": {"model": state(step + 1)}}, folder / f"{step}.pt")
    options = {"key": "a.model", "prefix": "net.", "parameters": ["0.*"]}
    linked = import_checkpoints(folder / "*", tmp_path / "linked", link=True, **options)
    wanted = [torch.cat([state(s)["0.weight"].reshape(-1), state(s)["0.bias"]]) for s in STEPS]
    np.testing.assert_array_equal(linked[:], torch.stack(wanted).numpy())


def test_surfaces_and_planes_are_those_of_copies(tmp_path):
    pattern = save(tmp_path / "saved", "safetensors", range(0, 60, 5))
    linked = import_checkpoints(pattern, tmp_path / "linked", link=True)
    copied = import_checkpoints(pattern, tmp_path / "copied")
    x, y = torch.randn(20, 6), torch.arange(20) % 3
    objective = losspath.Objective(network(), x, y, torch.nn.functional.cross_entropy)
    surfaces = [losspath.compute_surface(p, objective, "averaged", 5) for p in (linked, copied)]
    np.testing.assert_array_equal(surfaces[0].loss, surfaces[1].loss)
    sizes = [losspath.step_sizes(path).sizes for path in (linked, copied)]
    np.testing.assert_array_equal(*sizes)


def replaced(folder, how):
    file = folder / "step-10.safetensors"
    if how == "removed":
        file.unlink()
    elif how == "other numbers":
        save_file(state(11), file)
    elif how == "one bit":
        raw = bytearray(file.read_bytes())
        raw[-3] ^= 1
        times = file.stat()
        file.write_bytes(raw)  # in place, of the same size
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    elif how == "cut":
        file.write_bytes(file.read_bytes()[:-20])
    elif how == "other shapes":
        save_file({"0.weight": torch.zeros(2)}, file)


@pytest.mark.parametrize("how", ["removed", "other numbers", "one bit", "cut", "other shapes"])
@pytest.mark.parametrize("is_open", [True, False])
def test_a_checkpoint_that_is_another_is_never_read(tmp_path, how, is_open):
    pattern = save(tmp_path / "saved", "safetensors")
    path = import_checkpoints(pattern, tmp_path / "run", link=True)
    before = path[:]
    path.read_columns(0, 9, [2])
    replaced(tmp_path / "saved", how)
    path = path if is_open else Trajectory(tmp_path / "run")
    uses = [lambda: path[2], lambda: path[:], lambda: path.read_columns(0, 9, [2])]
    for use in uses:
        with pytest.raises((StoreError, ModelError), match="step-10"):
            use()
    np.testing.assert_array_equal(path[1], before[1])
    # Repair marks nothing, as the checkpoint may come back.
    assert repair_trajectory(tmp_path / "run") == []
    save_file(state(10), tmp_path / "saved" / "step-10.safetensors")
    np.testing.assert_array_equal(path[2], before[2])
    np.testing.assert_array_equal(path.read_columns(3, 9, [2])[0], before[2, 3:9])


def test_what_is_read_is_checked_every_time(tmp_path):
    pattern = save(tmp_path / "saved", "torch")
    path = import_checkpoints(pattern, tmp_path / "run", link=True)
    path[2]
    file = tmp_path / "saved" / "step-10.pt"
    times = file.stat()
    torch.save({"model": state(11), "step": 10}, file)  # with nothing that tells of it
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(DamagedError, match=r"step-10.pt has other numbers.*step 10"):
        Trajectory(tmp_path / "run")[2]


def test_moved_together_they_find_each_other(tmp_path):
    (tmp_path / "here").mkdir()
    pattern = save(tmp_path / "here" / "saved", "folders")
    before = import_checkpoints(pattern, tmp_path / "here" / "run", link=True)[:]
    shutil.move(tmp_path / "here", tmp_path / "there")
    path = Trajectory(tmp_path / "there" / "run")
    np.testing.assert_array_equal(path[:], before)
    shutil.move(tmp_path / "there" / "run", tmp_path / "run")
    with pytest.raises(StoreError, match=r"checkpoint-0, which is not there any more.*--link"):
        Trajectory(tmp_path / "run")[0]


def test_new_checkpoints_are_added_as_links(tmp_path):
    pattern = save(tmp_path / "saved", "safetensors", STEPS[:2])
    import_checkpoints(pattern, tmp_path / "run", link=True)
    save(tmp_path / "saved", "safetensors", STEPS[2:])
    path = import_checkpoints(pattern, tmp_path / "run", existing="resume")
    assert path.is_linked
    whole = import_checkpoints(pattern, tmp_path / "whole", link=True)
    assert path.digest == whole.digest
    np.testing.assert_array_equal(path[:], whole[:])
    # One that was changed since is no reason to go on.
    save_file(state(99), tmp_path / "saved" / "step-5.safetensors")
    with pytest.raises((DamagedError, ArgumentError), match="step-5"):
        import_checkpoints(pattern, tmp_path / "run", existing="resume")


def test_copies_are_not_continued_by_links_nor_links_by_a_recorder(tmp_path):
    pattern = save(tmp_path / "saved", "torch")
    import_checkpoints(pattern, tmp_path / "copied")
    with pytest.raises(ArgumentError, match="has copies of its checkpoints"):
        import_checkpoints(pattern, tmp_path / "copied", existing="resume", link=True)
    path = import_checkpoints(pattern, tmp_path / "linked", link=True)
    model = network()
    path.load_into(model, -1, buffers=True)
    with pytest.raises(StoreError, match="refers to, and it holds none itself; record in another"):
        Recorder(tmp_path / "linked", model, existing="resume")


def test_an_import_that_was_killed_goes_on(tmp_path, monkeypatch):
    pattern = save(tmp_path / "saved", "safetensors")

    def killed(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("losspath.importing.checkpoints.write_links", killed)
        with pytest.raises(KeyboardInterrupt):
            import_checkpoints(pattern, tmp_path / "run", link=True)
    path = import_checkpoints(pattern, tmp_path / "run", existing="resume")
    whole = import_checkpoints(pattern, tmp_path / "whole", link=True)
    assert path.digest == whole.digest
    np.testing.assert_array_equal(path[:], whole[:])


def test_an_import_that_was_killed_before_its_links_were_written_goes_on_without_them(tmp_path):
    pattern = save(tmp_path / "saved", "safetensors")
    whole = import_checkpoints(pattern, tmp_path / "run", link=True)[:]
    (tmp_path / "run" / "checkpoints.json").unlink()
    with pytest.raises(StoreError, match=r"checkpoints.json"):
        Trajectory(tmp_path / "run")[0]
    path = import_checkpoints(pattern, tmp_path / "run", existing="resume")
    np.testing.assert_array_equal(path[:], whole)


@pytest.mark.parametrize("damage", ["moved", "links damaged"])
def test_importing_again_finds_checkpoints_where_they_are_now(tmp_path, damage):
    pattern = save(tmp_path / "saved", "folders")
    whole = import_checkpoints(pattern, tmp_path / "run", link=True)[:]
    if damage == "moved":
        shutil.move(tmp_path / "saved", tmp_path / "elsewhere")
        pattern = tmp_path / "elsewhere" / "*"
    else:
        (tmp_path / "run" / "checkpoints.json").write_text("{}")
    with pytest.raises(StoreError):
        Trajectory(tmp_path / "run")[2]
    # Others of the same steps and shapes are not taken for them, nor noted.
    other = tmp_path / "other"
    for step in STEPS:
        (other / f"checkpoint-{step}").mkdir(parents=True)
        save_file(state(step + 1), other / f"checkpoint-{step}" / "model.safetensors")
    noted = (tmp_path / "run" / "checkpoints.json").read_bytes()
    with pytest.raises(ArgumentError, match=r"other numbers at step 0 than .*other"):
        import_checkpoints(other / "*", tmp_path / "run", existing="resume")
    assert (tmp_path / "run" / "checkpoints.json").read_bytes() == noted
    path = import_checkpoints(pattern, tmp_path / "run", existing="resume")
    np.testing.assert_array_equal(path[:], whole)
    np.testing.assert_array_equal(Trajectory(tmp_path / "run")[:], whole)


def test_a_copy_beside_the_run_stands_in_for_what_was_changed_elsewhere(tmp_path):
    (tmp_path / "here").mkdir()
    pattern = save(tmp_path / "here" / "saved", "safetensors")
    whole = import_checkpoints(pattern, tmp_path / "here" / "run", link=True)[:]
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    save_file(state(99), tmp_path / "here" / "saved" / "step-10.safetensors")
    path = Trajectory(tmp_path / "there" / "run")
    np.testing.assert_array_equal(path[:], whole)
    np.testing.assert_array_equal(path.read_columns(2, 9, [2, 1])[0], whole[2, 2:9])
    with pytest.raises(DamagedError, match=r"here.*step-10.safetensors has other numbers"):
        Trajectory(tmp_path / "here" / "run")[2]


def test_where_times_are_coarse_what_was_just_written_is_checked_again(tmp_path, monkeypatch):
    """A file system may give two writings one time."""
    pattern = save(tmp_path / "saved", "safetensors")
    path = import_checkpoints(pattern, tmp_path / "run", link=True)
    now = time.time_ns()
    monkeypatch.setattr(links, "signature_of", lambda place: ((place.name, 0, 0, now, now),))
    path.read_columns(0, 9, [2])
    file = tmp_path / "saved" / "step-10.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-3] ^= 1
    with file.open("r+b") as opened:
        opened.write(raw)
    with pytest.raises(DamagedError, match=r"step-10.safetensors has other numbers"):
        path.read_columns(0, 9, [2])


def test_a_part_of_a_checkpoint_in_parts_is_looked_at_too(tmp_path, monkeypatch):
    """Written in place, as what is mapped already shows the new numbers."""
    monkeypatch.setattr(places, "_SETTLED", -(10**12))
    indices = []
    for step in STEPS:
        folder = tmp_path / str(step)
        folder.mkdir()
        own = state(step)
        names = [f"model-0000{k}-of-00002.safetensors" for k in (1, 2)]
        halves = [dict(list(own.items())[k::2]) for k in (0, 1)]
        for name, half in zip(names, halves, strict=True):
            save_file(half, folder / name)
        parts = {n: names[k] for k in (0, 1) for n in halves[k]}
        indices.append(folder / "model.safetensors.index.json")
        indices[-1].write_text(json.dumps({"weight_map": parts}))
    path = import_checkpoints(indices, tmp_path / "run", link=True, steps=STEPS)
    count = path.parameter_count
    whole = path.read_columns(0, count, [0, 1, 2, 3])
    part = tmp_path / "10" / "model-00001-of-00002.safetensors"
    raw = bytearray(part.read_bytes())
    for place in range(len(raw) - 40, len(raw), 4):
        raw[place] ^= 1
    with part.open("r+b") as file:
        file.write(raw)
    with pytest.raises(DamagedError, match=r"10/model.safetensors.index.json has other numbers"):
        path.read_columns(0, count, [2])
    assert path.read_columns(0, count, [0, 1, 3]).tobytes() == whole[[0, 1, 3]].tobytes()


def test_what_was_linked_makes_way_for_copies(tmp_path):
    pattern = save(tmp_path / "saved", "safetensors")
    import_checkpoints(pattern, tmp_path / "run", link=True)
    path = import_checkpoints(pattern, tmp_path / "run", existing="overwrite")
    assert not path.is_linked
    assert not (tmp_path / "run" / "checkpoints.json").exists()
    shutil.rmtree(tmp_path / "saved")
    assert len(Trajectory(tmp_path / "run")[:]) == 4


def test_few_checkpoints_are_open_at_a_time(tmp_path, monkeypatch):
    pattern = save(tmp_path / "saved", "safetensors", range(20))
    path = import_checkpoints(pattern, tmp_path / "run", link=True)
    monkeypatch.setattr(links, "_OPEN_BYTES", 1000)
    opened = []
    read = links.Reading.read
    monkeypatch.setattr(links.Reading, "read", lambda *a: opened.append(a) or read(*a))
    path = Trajectory(tmp_path / "run")
    whole = path[:]
    assert len(opened) == 20
    assert len(path._rows._open) < 5
    np.testing.assert_array_equal(path.read_columns(0, 30, range(20)), whole[:, :30])


def test_the_command_line_links(tmp_path, capsys):
    from losspath.cli import main

    pattern = save(tmp_path / "saved", "safetensors")
    for words in (["import", pattern, "--out", "RUN", "--link"], ["info", "RUN"]):
        with pytest.raises(SystemExit) as end:
            main([word.replace("RUN", str(tmp_path / "run")) for word in words])
        assert end.value.code == 0
    size = sum(file.stat().st_size for file in (tmp_path / "saved").iterdir())
    told = capsys.readouterr().out
    assert "states are in the checkpoints" in told
    assert f"checkpoints that it refers to: {size / 1e6:,.1f} MB\n" in told
    (tmp_path / "saved" / "step-5.safetensors").unlink()
    with pytest.raises(SystemExit) as end:
        main(["info", str(tmp_path / "run"), "--json"])
    assert end.value.code == 0
    left = size - (size // 4)
    assert json.loads(capsys.readouterr().out)["linked"] == {"bytes": left, "missing": 1}
    assert Trajectory(tmp_path / "run").is_linked
