import builtins
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torchvision import transforms

from mezzotint.data.image.classic import CIFAR10, CIFAR100, STL10, SVHN, Enlarge
from mezzotint.data.labeled import Labeled
from mezzotint.data.memory import moments
from mezzotint.data.source import Source
from mezzotint.types import Interpolation

Images = npt.NDArray[np.uint8]


RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def own_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test draws the same images, whichever ran before it in this process.

    torch and Pillow differ by two levels in about one of 200,000 enlarged values of noise, and in
    none of these images.
    """
    monkeypatch.setitem(globals(), "RNG", np.random.default_rng(1))


def noise(count: int, side: int = 32) -> Images:
    return RNG.integers(0, 256, (count, 3, side, side), dtype=np.uint8)


def batches(folder: Path, sizes: list[int]) -> tuple[list[Images], list[list[int]]]:
    folder.mkdir(parents=True)
    return [noise(n) for n in sizes], [RNG.integers(0, 10, n).tolist() for n in sizes]


NAMES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


def write_cifar10_binary(root: Path) -> tuple[Images, list[int]]:
    folder = root / "cifar-10-batches-bin"
    images, labels = batches(folder, [2, 2, 2, 2, 2, 3])
    for name, x, y in zip(NAMES, images, labels, strict=True):
        (folder / f"{name}.bin").write_bytes(
            b"".join(bytes([b]) + a.tobytes() for a, b in zip(x, y, strict=True))
        )
    (folder / "batches.meta.txt").write_text("".join(f"class{i}\n" for i in range(10)) + "\n")
    return np.concatenate(images), sum(labels, [])


def write_cifar10_python(root: Path) -> tuple[Images, list[int]]:
    folder = root / "cifar-10-batches-py"
    images, labels = batches(folder, [2, 2, 2, 2, 2, 3])
    for name, x, y in zip(NAMES, images, labels, strict=True):
        content = {
            b"data": x.reshape(len(x), -1),
            b"labels": y,
            b"batch_label": b"a batch",
            b"filenames": [b"a.png"],
        }
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    meta = {b"label_names": [f"class{i}".encode() for i in range(10)], b"num_vis": 3072}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))
    return np.concatenate(images), sum(labels, [])


@pytest.mark.parametrize("write", [write_cifar10_binary, write_cifar10_python])
def test_cifar10(write: Any, tmp_path: Path) -> None:
    images, labels = write(tmp_path)
    source = CIFAR10(root=str(tmp_path))
    assert isinstance(source, Source) and source.in_memory and source.evaluation()[1]
    assert len(source) == 10  # the test images are not pretrained on
    np.testing.assert_array_equal(source.images.numpy(), images[:10])
    assert source.read(3)["label"] == labels[3] and source.read(3)["id"] == "cifar10/000003"
    whole, tasks = source.evaluation()
    assert len(whole) == 13 and len(source) == 10
    assert torch.equal(
        torch.stack([whole.read(i)["x"] for i in range(13)]), torch.from_numpy(images)
    )
    (task,) = tasks
    assert task.name == "label/test" and task.kind == "classify" and task.classes[3] == "class3"
    assert task.train.tolist() == list(range(10)) and task.test.tolist() == [10, 11, 12]
    assert task.labels.tolist() == labels
    assert source.input.mean == (0.4914, 0.4822, 0.4465) and source.input.std == (
        0.2023,
        0.1994,
        0.2010,
    )


def test_the_inner_folder_may_be_given_and_both_versions_agree(tmp_path: Path) -> None:
    images, labels = write_cifar10_binary(tmp_path)
    inner = CIFAR10(root=str(tmp_path / "cifar-10-batches-bin"))
    assert inner.fingerprint() == CIFAR10(root=str(tmp_path)).fingerprint()
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for i, name in enumerate(NAMES):
        rows = slice(2 * i, 2 * i + 2 if i < 5 else None)
        content = {b"data": images[rows].reshape(-1, 3072), b"labels": labels[rows]}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    meta = {b"label_names": [f"class{i}".encode() for i in range(10)]}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))
    assert CIFAR10(root=str(folder)).fingerprint() == inner.fingerprint()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_evaluated_images_are_enlarged_as_torchvision_does(
    interpolation: Interpolation, tmp_path: Path
) -> None:
    images, _ = write_cifar10_binary(tmp_path)
    source = CIFAR10(root=str(tmp_path), enlarge=Enlarge(size=36, interpolation=interpolation))
    published = transforms.Compose(
        [
            transforms.Resize(36, interpolation=transforms.InterpolationMode(interpolation)),
            transforms.CenterCrop(32),
        ]
    )
    whole, _ = source.evaluation()
    for index, image in enumerate(images):
        expected = np.asarray(published(Image.fromarray(image.transpose(1, 2, 0)))).astype(int)
        found = whole.read(index)["x"].permute(1, 2, 0).numpy().astype(int)
        assert np.abs(found - expected).max() <= 1 and (found == expected).mean() > 0.9
    assert torch.equal(whole.read_batch(torch.tensor([2]))[0], whole.read(2)["x"])
    # Training sees the stored images, also where it takes them from the labeled ones.
    rows = torch.arange(10)
    assert torch.equal(source.read_batch(rows), source.images)
    labeled = Labeled(source=source)
    assert torch.equal(labeled.read_batch(rows), source.images[labeled.chosen])
    assert torch.equal(labeled.read(3)["x"], source.images[labeled.chosen[3]])
    evaluated, _ = labeled.evaluation()
    assert torch.equal(evaluated.read(12)["x"], whole.read(12)["x"])


def test_images_are_enlarged_and_never_made_smaller(tmp_path: Path) -> None:
    write_cifar10_binary(tmp_path)
    with pytest.raises(ValueError, match="must be at least the images' 32 pixels, got 30. Leave"):
        CIFAR10(root=str(tmp_path), enlarge=Enlarge(size=30))
    with pytest.raises(ValueError, match="must be 1 or more pixels, got 0. Try 36"):
        Enlarge(size=0)


def test_normalization_can_be_measured(tmp_path: Path) -> None:
    write_cifar10_binary(tmp_path)
    source = CIFAR10(root=str(tmp_path), normalization="measured")
    assert (source.input.mean, source.input.std) == moments(source.images)
    with pytest.raises(
        ValueError, match="`normalization` must be published or measured, got 'imagenet'. Choose"
    ):
        CIFAR10(root=str(tmp_path), normalization="imagenet")  # type: ignore[arg-type]


@pytest.mark.parametrize("version", ["cifar-100-binary", "cifar-100-python"])
@pytest.mark.parametrize("labels", ["fine", "coarse"])
def test_cifar100(version: str, labels: Any, tmp_path: Path) -> None:
    folder = tmp_path / version
    folder.mkdir()
    images = {name: noise(n) for name, n in (("train", 4), ("test", 2))}
    fine = {name: RNG.integers(0, 100, len(x)).tolist() for name, x in images.items()}
    coarse = {name: RNG.integers(0, 20, len(x)).tolist() for name, x in images.items()}
    names = {"fine": [f"f{i}" for i in range(100)], "coarse": [f"c{i}" for i in range(20)]}
    for name, x in images.items():
        if version == "cifar-100-binary":
            rows = (
                bytes([c, f]) + a.tobytes()
                for a, c, f in zip(x, coarse[name], fine[name], strict=True)
            )
            (folder / f"{name}.bin").write_bytes(b"".join(rows))
        else:
            content = {
                b"data": x.reshape(-1, 3072),
                b"fine_labels": fine[name],
                b"coarse_labels": coarse[name],
            }
            (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    for kind, values in names.items():
        (folder / f"{kind}_label_names.txt").write_text("\n".join(values))
    meta = {
        f"{kind}_label_names".encode(): [v.encode() for v in values]
        for kind, values in names.items()
    }
    (folder / "meta").write_bytes(pickle.dumps(meta, protocol=2))
    source = CIFAR100(root=str(tmp_path), labels=labels)
    whole, (task,) = source.evaluation()
    expected = fine if labels == "fine" else coarse
    assert len(source) == 4 and task.labels.tolist() == expected["train"] + expected["test"]
    assert task.classes == names[labels] and torch.equal(
        whole.read(5)["x"], torch.from_numpy(images["test"][1])
    )
    assert source.input.mean == (0.5071, 0.4865, 0.4409)


def test_stl10(tmp_path: Path) -> None:
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    images = {name: noise(n, 96) for name, n in (("unlabeled", 5), ("train", 4), ("test", 3))}
    labels = {
        name: RNG.integers(1, 11, len(images[name]), dtype=np.uint8) for name in ("train", "test")
    }
    for name, x in images.items():
        (folder / f"{name}_X.bin").write_bytes(
            x.transpose(0, 1, 3, 2).tobytes()
        )  # column by column
    for name, y in labels.items():
        (folder / f"{name}_y.bin").write_bytes(y.tobytes())
    (folder / "class_names.txt").write_text("".join(f"class{i}\n" for i in range(10)))
    source = STL10(root=str(tmp_path))
    np.testing.assert_array_equal(
        source.images.numpy(), np.concatenate([images["unlabeled"], images["train"]])
    )
    assert source.read(0)["label"] is None and source.read(5)["label"] == labels["train"][0] - 1
    whole, (task,) = source.evaluation()
    assert len(source) == 9 and len(whole) == 7  # no features are extracted of what has no label
    assert task.train.tolist() == [0, 1, 2, 3] and task.test.tolist() == [4, 5, 6]
    assert (task.labels + 1).tolist() == [*labels["train"], *labels["test"]]
    assert torch.equal(whole.read(4)["x"], torch.from_numpy(images["test"][0]))
    assert len(STL10(root=str(folder), unlabeled=False)) == 4
    (folder / "unlabeled_X.bin").unlink()
    with pytest.raises(ValueError, match="unlabeled_X.bin`: it is missing. Expected: all files"):
        STL10(root=str(tmp_path))
    (folder / "train_y.bin").write_bytes(bytes([0, 1, 2, 3]))
    with pytest.raises(ValueError, match="must have a label of 1 … 10 for each image"):
        STL10(root=str(tmp_path), unlabeled=False)


def test_svhn(tmp_path: Path) -> None:
    images = {name: noise(n) for name, n in (("train", 4), ("test", 3), ("extra", 2))}
    labels = {name: RNG.integers(0, 10, len(x)) for name, x in images.items()}
    labels["train"][0] = 0
    for name, x in images.items():
        stored = {
            "X": x.transpose(2, 3, 1, 0),
            "y": np.where(labels[name] == 0, 10, labels[name])[:, None],
        }
        savemat(tmp_path / f"{name}_32x32.mat", stored)
    source = SVHN(root=str(tmp_path))
    np.testing.assert_array_equal(source.images.numpy(), images["train"])
    assert source.labels.tolist() == labels["train"].tolist() and source.read(0)["label"] == 0
    whole, (task,) = source.evaluation()
    assert task.labels.tolist() == [*labels["train"], *labels["test"]] and len(whole) == 7
    more = SVHN(root=str(tmp_path), extra=True)
    np.testing.assert_array_equal(
        more.images.numpy(), np.concatenate([images["extra"], images["train"]])
    )
    (tmp_path / "test_32x32.mat").write_bytes(b"MATLAB 5.0" + bytes(300))
    with pytest.raises(ValueError, match="test_32x32.mat`: .*. Expected: a file of SVHN. Download"):
        SVHN(root=str(tmp_path))


def test_svhn_without_scipy_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "train_32x32.mat").write_bytes(b"")
    imported = builtins.__import__

    def refuse(name: str, *args: Any, **keywords: Any) -> Any:
        if name.startswith("scipy"):
            raise ImportError(name)
        return imported(name, *args, **keywords)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ValueError, match="scipy is not installed. Run `pip install scipy`"):
        SVHN(root=str(tmp_path))


@pytest.mark.parametrize("kind", [CIFAR10, CIFAR100, STL10, SVHN])
def test_a_wrong_folder(kind: Any, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="has no .*. It must be the unpacked data set, or the folder above. Check"
    ):
        kind(root=str(tmp_path))


def test_damaged_files(tmp_path: Path) -> None:
    write_cifar10_binary(tmp_path)
    folder = tmp_path / "cifar-10-batches-bin"
    whole = (folder / "data_batch_2.bin").read_bytes()
    for content, message in [
        (whole[:-1], "it has 6145 bytes. Expected: rows of 3073 bytes. Download"),
        (b"", "it has 0 bytes. Expected: rows of 3073"),
        (b"\x0a" + whole[1:], "labels from .* to 10. Expected: 0 … 9. Download"),
    ]:
        (folder / "data_batch_2.bin").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            CIFAR10(root=str(tmp_path))
    (folder / "data_batch_2.bin").write_bytes(whole)
    (folder / "batches.meta.txt").unlink()
    with pytest.raises(ValueError, match="batches.meta.txt`: it is missing or not text"):
        CIFAR10(root=str(tmp_path))
