import importlib.util
import io
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests import ROOT

SCRIPTS = ROOT / "scripts"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    pytest.importorskip("trimesh")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        spec = importlib.util.spec_from_file_location(
            "make_points_series_data", SCRIPTS / "make_points_series_data.py"
        )
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("Armchair", "seat"),
        ("Chair with cushion", "seat"),
        ("Sofa 2 seats", "sofa"),
        ("Desk lamp", "lamp"),
        ("Convertible sofa BZ", "sofa"),
        ("Quadruple French window small panes", "opening"),
        ("Glass table", "table"),
        ("Table on trestles", "table"),
        ("Table fan", None),
        ("Wheelchair", None),
        ("Chest freezer", None),
        ("Armchair ottoman", None),
        ("Glass door cabinet", "storage"),
        ("Female", "person"),
        ("Cup cake", None),
    ],
)
def test_a_model_is_what_its_name_ends_with(
    script: ModuleType, name: str, label: str | None
) -> None:
    assert script.object_of(name) == label


def test_a_catalog_is_read_by_number(script: ModuleType) -> None:
    text = "# x\nid=A#B\nid#2=b\nname#2=Caf\\u00e9 chair\nid#1=a\nname#1=Bed\ncategory#1=Bedroom\n"
    assert script.entries(text) == [
        {"id": "a", "name": "Bed", "category": "Bedroom"},
        {"id": "b", "name": "Café chair"},
    ]


def test_a_model_is_upright_centered_and_sorted(script: ModuleType) -> None:
    # A column along y, which is up in the catalog; the rotation lays a second one down.
    obj = "v 0 0 0\nv 1 0 0\nv 1 9 0\nv 0 9 0\nv 0 0 1\nf 1 2 3\nf 1 3 4\nf 1 2 5\n"
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a/a.obj", obj)
    catalog = zipfile.ZipFile(content)
    cloud = script.cloud_of(catalog, {"model": "/a/a.obj", "id": "a"})
    assert cloud.shape == (1024, 3) and cloud.dtype == np.int16 and np.abs(cloud).max() <= 1024
    extent = np.ptp(cloud.astype(int), axis=0)
    assert extent.argmax() == 2
    lying = script.cloud_of(
        catalog, {"model": "/a/a.obj", "id": "a", "modelRotation": "0 1 0 -1 0 0 0 0 1"}
    )
    assert np.ptp(lying.astype(int), axis=0).argmax() == 0
    near = np.abs(np.diff(cloud.astype(int), axis=0)).mean()
    assert (
        near
        < 0.3
        * np.abs(
            np.diff(cloud[np.random.default_rng(0).permutation(1024)].astype(int), axis=0)
        ).mean()
    )


def test_samples_of_one_surface_look_alike_and_others_do_not(script: ModuleType) -> None:
    rng = np.random.default_rng(0)

    def sphere(radius: float) -> Any:
        points = rng.normal(size=(1024, 3))
        return np.rint(
            points / np.linalg.norm(points, axis=1, keepdims=True) * radius * 1024
        ).astype(np.int16)

    box = np.rint((rng.uniform(-0.6, 0.6, (1024, 3))) * 1024).astype(np.int16)
    assert script.look_alikes(np.stack([sphere(0.9), box, sphere(0.9), sphere(0.7)])).tolist() == [
        0,
        1,
        0,
        3,
    ]


def test_differences_give_the_recordings_back(script: ModuleType, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    recordings = [rng.normal(size=(50, 6)) * 5, rng.normal(size=(30, 6)) * 5]
    data = {"X": recordings, "y": [2, 1], "subject": [1, 2], "side": [0.0, 1.0]}
    content = io.BytesIO()
    np.save(content, np.array(data, dtype=object), allow_pickle=True)
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as archive:
        archive.writestr("seglearn/data/watch_dataset.npy", content.getvalue())
    arrays = script.make_smartwatch(tmp_path / "a.whl")
    values = np.cumsum(arrays["changes"], axis=0, dtype=np.int16) * arrays["scale"]
    assert np.abs(values - np.concatenate(recordings)).max() <= arrays["scale"].max() / 2 + 1e-12
    assert arrays["lengths"].tolist() == [50, 30] and arrays["changes"].dtype == np.int16


def test_an_archive_with_another_checksum_is_refused(script: ModuleType, tmp_path: Path) -> None:
    for name in script.ARCHIVES:
        (tmp_path / name).write_bytes(b"not the archive")
        with pytest.raises(
            SystemExit, match="has SHA-256 .*, but must have .* Delete it and fetch it again"
        ):
            script.fetch(name, tmp_path)
