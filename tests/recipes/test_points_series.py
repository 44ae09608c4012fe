"""Every shipped recipe for points, series and tables trains two steps on small data."""

from pathlib import Path

import numpy as np
import pytest

from mezzotint.recipe.reading import shipped
from mezzotint.recipe.recipe import Recipe, read_recipe
from mezzotint.train.log import read_metrics
from mezzotint.train.loop import pretrain

NAMES = [name for name in shipped() if name.split("/")[0] in ("points", "series", "table")]
EMBEDDED = ("furniture", "smartwatch", "table_sample")


def write(name: str, folder: Path) -> str:
    """A small file that the recipe's own source reads."""
    rng = np.random.default_rng(0)
    if name.startswith("points/"):
        path = folder / "clouds.npz"
        np.savez(path, x=rng.normal(size=(20, 64, 3)), y=np.arange(20) % 2)
    elif name.startswith("series/"):
        path = folder / "series.csv"
        rows = [
            f"p{p},{'ab'[p % 2]},{','.join(map(str, rng.normal(size=3)))}"
            for p in range(10)
            for _ in range(128)
        ]
        path.write_text("\n".join(["subject,label,x,y,z", *rows]))
    else:
        path = folder / "table.csv"
        rows = [
            f"{rng.normal()},{'red blue green'.split()[i % 3]},{'ab'[i % 2]}" for i in range(40)
        ]
        path.write_text("\n".join(["size,color,label", *rows]))
    return str(path)


@pytest.mark.parametrize("name", NAMES)
def test_two_steps(name: str, tmp_path: Path) -> None:
    published = read_recipe(name)
    small = [
        "run.epochs=1",
        "run.log.every_steps=1",
        "method.hidden_dim=16",
        "method.dim=8",
        "encoder.width=4",
    ]
    if published["data"]["kind"] not in EMBEDDED:
        small += [f"data.path={write(name, tmp_path)}", "data.holdout=0.3"]
    if "neighbors" in published["encoder"]:
        small.append("encoder.neighbors=4")
    recipe = Recipe.build(read_recipe(name, small))
    length = len(recipe.data)
    recipe = Recipe.build(read_recipe(name, [*small, f"run.batch_size={length // 2}"]))
    assert (
        recipe.config()["views"] == published["views"]
        and recipe.config()["optimizer"] == published["optimizer"]
    )
    run = pretrain(recipe, tmp_path / "run", progress="quiet")
    losses = [line["loss"] for line in read_metrics(run / "metrics.jsonl")]
    assert len(losses) == 2 and None not in losses
