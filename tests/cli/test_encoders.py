"""`mezzotint embed`, `import`, `export` and `norm-rescale` from the command line."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch

from mezzotint import load_encoder
from mezzotint.cli.app import run
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.resnet import resnet18
from mezzotint.encoders.saving import save_encoder
from mezzotint.types import Input

DIGITS = Input((1, 8, 8), (0.5,), (0.5,))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("cli") / "encoder"
    save_encoder(resnet18(DIGITS, width=2, stem="small"), folder)
    return folder


def features(encoder: Encoder, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return encoder.eval()(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["f.npz", "f.parquet"])
def test_embed_writes_features_ids_and_labels(
    encoder: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / name
    assert run(["embed", str(encoder), "digits", "--out", str(out)]) == 0
    counted = "1797 samples (1439 train, 358 holdout), 16 features, 10 classes"
    assert capsys.readouterr().out == f"{out}: {counted}\n"
    if name == "f.npz":
        with np.load(out) as arrays:
            assert arrays["features"].shape == (1797, 16)
            assert np.isfinite(arrays["features"]).all()
            assert len(set(arrays["ids"].tolist())) == 1797
            assert set(arrays["labels"].tolist()) == set(range(10))
            assert arrays["classes"].tolist() == list("0123456789")
    else:
        table = pyarrow.parquet.read_table(out)
        assert table.num_rows == 1797 and table.column_names == [
            "id", "split", "label", "class", "feature",
        ]  # fmt: skip
        assert table.column("class").to_pylist() == [
            str(label) for label in table.column("label").to_pylist()
        ]


def test_embed_refuses_data_of_another_shape_and_other_suffixes(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["embed", str(encoder), "emoji"]) == 2
    message = capsys.readouterr().err
    assert "(3, 32, 32)" in message and "(1, 8, 8)" in message
    assert run(["embed", str(encoder), "digits", "--out", "f.csv"]) == 2
    assert ".npz" in capsys.readouterr().err
    assert run(["embed", str(tmp_path), "digits"]) == 2
    assert "encoder.json" in capsys.readouterr().err


def test_import_takes_keys_and_keeps_the_function(tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = resnet18(Input((3, 32, 32), (0.5,) * 3, (0.5,) * 3), width=2, stem="small")
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    code = run(
        ["import", str(tmp_path / "weights.pt"), "kind=resnet18", "width=2", "stem=small", "--size",
         "32", "--normalization", "half", "--out", str(tmp_path / "imported")]
    )  # fmt: skip
    assert code == 0
    imported, x = load_encoder(tmp_path / "imported"), torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(features(imported, x), features(network, x))
    assert imported.input == network.input


def test_export_prints_what_was_verified(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "encoder"
    save_encoder(load_encoder(encoder), copy)
    assert run(["export", str(copy), "--format", "torch_export", "--data", "digits", "--json"]) == 0
    done = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert Path(done["artifact"]).is_dir()


def test_norm_rescale_keeps_the_function(encoder: Path, tmp_path: Path) -> None:
    torch.manual_seed(2)
    save_encoder(resnet18(DIGITS, width=2, stem="small"), tmp_path / "anchor")
    out = tmp_path / "rescaled"
    code = run(
        ["norm-rescale", str(encoder), "--anchor", str(tmp_path / "anchor"), "--out", str(out)]
    )
    x = torch.randn(8, 1, 8, 8)
    before, after = (features(load_encoder(path), x) for path in (encoder, out))
    assert code == 0 and (after - before).norm() < 0.05 * before.norm()
    assert {"norms.txt", "norms.svg", "encoder.json"} <= {p.name for p in out.iterdir()}
