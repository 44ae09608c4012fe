"""Point points of one's own, good and bad."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mezzotint.data.points.clouds import point_clouds
from mezzotint.data.points.files import centered, content_key, resampled
from mezzotint.data.source import Source
from mezzotint.types import Unreadable

RNG = np.random.default_rng(0)


OFF = "OFF\n4 2 0\n0 0 0\n1 0 0\n1 1 0\n0 3 0\n3 0 1 2\n3 0 2 3\n"


def test_arrays(tmp_path: Path) -> None:
    points = RNG.normal(size=(20, 50, 3))
    points[3, :10] = np.nan
    np.savez(tmp_path / "a.npz", x=points, y=np.array(["chair", "lamp"])[np.arange(20) % 2])
    source = point_clouds(path=str(tmp_path / "a.npz"), points=32)
    assert isinstance(source, Source) and source.in_memory and source.evaluation()[1]
    x = source.read_batch(torch.arange(20))
    assert x.shape == (20, 3, 32) and x.dtype == torch.float32 and x.isfinite().all()
    assert source.config["kind"] == "point_clouds" and source.config["points"] == 32
    _, (task, few) = source.evaluation()
    assert (
        task.name == "label/holdout" and len(task.test) == 4 and task.classes == ["chair", "lamp"]
    )
    assert (
        few.name == "label/1-percent"
        and sorted(few.labels[few.train]) == [0, 1]
        and set(few.test) == set(task.test)
    )
    np.savez(tmp_path / "b.npz", x=points.transpose(0, 2, 1))
    other = point_clouds(path=str(tmp_path / "b.npz"), points=32, scaling="none")
    # Same points, whatever the layout; the choice depends on the file's name, so compare as they
    # are.
    own = {tuple(p) for p in points[5].astype(np.float32)}
    assert {tuple(p.tolist()) for p in other.read(5)["x"].T} <= {tuple(map(float, p)) for p in own}
    assert other.evaluation()[1] == []


@pytest.mark.parametrize(
    ("points", "text"),
    [
        (
            np.zeros((4, 3, 3)) + np.arange(3),
            "cloud 0: 3 of its 3 points are finite, and 4 are needed",
        ),
        (np.full((4, 9, 3), np.nan), "cloud 0: 0 of its 9 points are finite"),
        (np.ones((4, 9, 3)), "cloud 0: all its points are identical"),
        (np.ones((4, 9, 5)), r"must be numbers \[N, points, 3\]"),
        (np.array(["a"]), r"must be numbers \[N, points, 3\]"),
    ],
)
def test_arrays_that_cannot_be_used_are_refused_by_name(
    tmp_path: Path, points: np.ndarray, text: str
) -> None:
    np.savez(tmp_path / "a.npz", x=points)
    with pytest.raises(ValueError, match=text):
        point_clouds(path=str(tmp_path / "a.npz"), points=8)


def test_a_pickle_is_never_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="never a pickle"):
        point_clouds(path=str(tmp_path / "a.npz"))


def test_a_folder_of_clouds_and_meshes_reads_what_it_can(tmp_path: Path) -> None:
    pytest.importorskip("trimesh")
    for part, count in (("train", 3), ("test", 2)):
        for label in ("chair", "lamp"):
            folder = tmp_path / label / part
            folder.mkdir(parents=True)
            for i in range(count):
                np.save(folder / f"{i}.npy", RNG.normal(size=(30, 6)))
    (tmp_path / "chair" / "train" / "mesh.off").write_text(OFF)
    (tmp_path / "chair" / "train" / "flat.off").write_text(
        "OFF\n3 1 0\n0 0 0\n1 1 1\n2 2 2\n3 0 1 2\n"
    )
    (tmp_path / "chair" / "train" / "damaged.ply").write_bytes(b"ply\nformat")
    np.save(tmp_path / "lamp" / "train" / "few.npy", np.ones((3, 3)))
    source = point_clouds(path=str(tmp_path), points=16)
    both, (task, _) = source.evaluation()
    assert not source.in_memory and len(source) == 10 and len(both) == 14
    bad = {}
    for i in range(14):
        try:
            sample = both.read(i)
            assert sample["x"].shape == (3, 16) and sample["x"].isfinite().all()
        except Unreadable as error:
            bad[error.id] = error.reason
    assert set(bad) == {"chair/train/flat.off", "chair/train/damaged.ply", "lamp/train/few.npy"}
    assert (
        "no area" in bad["chair/train/flat.off"]
        and "cannot be read" in bad["chair/train/damaged.ply"]
    )
    assert "3 of its 3 points" in bad["lamp/train/few.npy"]
    assert task.name == "label/test" and len(task.test) == 4 and task.classes == ["chair", "lamp"]
    assert task.test.tolist() == [10, 11, 12, 13]  # never pretrained on
    before = source.fingerprint()
    (tmp_path / "chair" / "train" / "mesh.off").write_text(OFF + "\n")
    assert source.fingerprint() != before


def test_modelnet_h5(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    for part, count in (("train", 6), ("test", 4)):
        with h5py.File(tmp_path / f"ply_data_{part}0.h5", "w") as file:
            file["data"] = RNG.normal(size=(count, 40, 3)).astype(np.float32)
            file["label"] = (np.arange(count) % 2)[:, None].astype(np.uint8)
    (tmp_path / "shape_names.txt").write_text("airplane\nbathtub\n")
    source = point_clouds(path=str(tmp_path), points=24)
    _, (task, _) = source.evaluation()
    assert task.name == "label/test" and list(task.classes) == ["airplane", "bathtub"]
    assert len(source) == 6 and len(task.test) == 4 and len(task.train) == 6
    (tmp_path / "ply_data_test0.h5").rename(tmp_path / "latest0.h5")  # no name of a split
    assert len(point_clouds(path=str(tmp_path), points=24)) == 10
    (tmp_path / "ply_data_train1.h5").write_bytes(b"no hdf5")
    with pytest.raises(ValueError, match="ply_data_train1.h5` cannot be read"):
        point_clouds(path=str(tmp_path))


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no point clouds"):
        point_clouds(path=str(tmp_path))
    (tmp_path / "a.npy").write_bytes(b"x")
    with pytest.raises(ValueError, match="none of the sampled files can be used, such as a.npy"):
        point_clouds(path=str(tmp_path))
    with pytest.raises(ValueError, match="a.las` does not exist. Supported: .npy"):
        point_clouds(path=str(tmp_path / "a.las"))
    with pytest.raises(ValueError, match="got points=0"):
        point_clouds(path=str(tmp_path), points=0)


def test_one_cloud_gives_the_same_points_in_any_file_at_any_place(tmp_path: Path) -> None:
    """Its own values key the sampling; a changed key would silently give other points."""
    pytest.importorskip("trimesh")
    clouds = np.random.default_rng(0).normal(size=(3, 30, 3)).astype(np.float32)
    np.savez(tmp_path / "a.npz", x=clouds)
    np.savez(tmp_path / "b.npz", x=clouds[::-1].transpose(0, 2, 1).astype(np.float64))
    for number, cloud in enumerate(clouds):
        (tmp_path / "c").mkdir(exist_ok=True)
        np.save(tmp_path / "c" / f"{2 - number}.npy", np.concatenate([cloud, cloud], axis=1))
        (tmp_path / "p").mkdir(exist_ok=True)
        axes = "".join(f"property float {axis}\n" for axis in ("nx", "x", "y", "z"))
        header = f"ply\nformat binary_big_endian 1.0\nelement vertex 30\n{axes}end_header\n"
        rows = np.concatenate([cloud[:, :1], cloud], axis=1).astype(">f4")
        (tmp_path / "p" / f"{2 - number}.ply").write_bytes(header.encode() + rows.tobytes())
        (tmp_path / "t").mkdir(exist_ok=True)
        np.save(tmp_path / "t" / f"{2 - number}.npy", np.concatenate([cloud, cloud], axis=1).T)
    names = ("a.npz", "b.npz", "c", "p", "t")
    whole = [point_clouds(path=str(tmp_path / name), points=8) for name in names]
    for number, cloud in enumerate(clouds):
        own = cloud.astype(np.float64)
        chosen = centered(resampled(own, 8, content_key(own))).T.astype(np.float32)
        for source, index in zip(whole, (number, *[2 - number] * 4), strict=True):
            assert np.array_equal(source.read(index)["x"].numpy(), chosen)
