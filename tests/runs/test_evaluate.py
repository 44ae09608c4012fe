"""`evaluate.bits` from the recipe to `evaluation.json`."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mezzotint.encoders.saving import load_encoder, save_encoder
from mezzotint.evaluation.before_after import read_changes
from mezzotint.evaluation.results import OWN, RAW, UNTRAINED, read_baselines, read_evaluation
from mezzotint.evaluation.summary import summary
from mezzotint.recipe.recipe import Recipe, resolve_recipe
from mezzotint.report.headline import start_words
from mezzotint.report.page import write_report
from mezzotint.runs.evaluate import evaluate
from mezzotint.train.loop import pretrain
from tests.tiny import config
from tests.untrained_run import make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrain(
        Recipe.build(config()), tmp_path_factory.mktemp("runs") / "tiny", progress="quiet"
    )


def test_a_run_is_evaluated_at_the_bits_of_its_overrides(run: Path) -> None:
    quick = ["evaluate.probes=[knn, linear]", "evaluate.seeds=1", "evaluate.baselines=false"]
    evaluate(
        run,
        [
            *quick,
            "evaluate.bits=[32/32, 8/8, 2/4]",
            "evaluate.calibration_samples=100",
            "evaluate.policy=all",
        ],
    )
    rows = read_evaluation(run)
    assert {str(row.bits) for row in rows} == {"fp32", "W8A8", "W2A4"}
    low = [row for row in rows if not row.bits.is_float]
    assert all(
        str(row.protocol).startswith("ptq/1 min_max policy=all ")
        and row.protocol.ptq is not None
        and row.protocol.ptq.calibration == 100
        for row in low
    )
    again = evaluate(run, quick).rows
    assert again == [row for row in rows if row.bits.is_float]
    assert read_evaluation(run) == rows, "fewer bits do not delete what was measured"


def test_the_report_shows_features_that_the_evaluation_extracted(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = shutil.copytree(run, tmp_path / "one")
    known = evaluate(one).features
    assert set(known) == {OWN, RAW, UNTRAINED}
    extracted: list[int] = []
    monkeypatch.setattr("mezzotint.report.neighbors._features", lambda *given: extracted.append(1))
    again = write_report(one, known=known).read_text(encoding="utf-8")
    monkeypatch.undo()
    assert not extracted
    assert again == write_report(one).read_text(encoding="utf-8")
    other = evaluate(one, data=Recipe.build(config()).data)
    assert other.rows and not other.features, "features of other data are not the run's"


def test_fewer_probes_keep_what_other_probes_measured(run: Path, tmp_path: Path) -> None:
    one = shutil.copytree(run, tmp_path / "one")
    for name in ("evaluation.json", "baselines.json", "evaluated_on.json"):
        (one / name).unlink(missing_ok=True)
    evaluate(one, ["evaluate.probes=[knn]", "evaluate.seeds=1"])
    knn, raw = read_evaluation(one), read_baselines(one).raw
    evaluate(one, ["evaluate.probes=[{kind: knn, k: 3}]", "evaluate.seeds=1"])
    both = read_evaluation(one)
    assert both[: len(knn)] == knn
    settings = {row.protocol.settings[0] for row in both if row.probe == "knn"}
    assert settings == {("k", 10), ("k", 3)}
    assert read_baselines(one).raw[: len(raw)] == raw
    evaluate(one, ["evaluate.probes=[knn]", "evaluate.seeds=1", "evaluate.baselines=false"])
    assert read_evaluation(one) == both, "the same values stay where they are"
    assert len(read_baselines(one).raw) > len(raw)
    # With other weights nothing of this holds.
    encoder = load_encoder(one)
    with torch.no_grad():
        next(encoder.parameters()).add_(1.0)
    shutil.rmtree(one / "encoder")
    save_encoder(encoder, one / "encoder")
    fresh = evaluate(one, ["evaluate.probes=[knn]", "evaluate.baselines=false"]).rows
    assert read_evaluation(one) == fresh and read_baselines(one).raw == []


def test_no_bits_are_float_alone(run: Path) -> None:
    quick = ["evaluate.probes=[knn]", "evaluate.seeds=1", "evaluate.baselines=false"]
    default = evaluate(run, quick).rows
    assert evaluate(run, [*quick, "evaluate.bits=[]"]).rows == default
    assert all(row.bits.is_float for row in default)
    with pytest.raises(
        ValueError, match="has no clips or crops to average over"
    ):  # refused for the data, not the bits
        evaluate(run, ["evaluate.bits=[]"], crops=2)


def test_the_summary_puts_low_bits_under_their_float_figure(run: Path) -> None:
    (run / "evaluated_on.json").unlink(missing_ok=True)  # without the results of other tests
    evaluate(run, ["evaluate.probes=[knn, linear]", "evaluate.seeds=1", "evaluate.bits=[8/8]"])
    lines = summary(run)
    assert [line[1] for line in lines] == [
        "knn",
        "knn W8A8 min_max",
        "linear",
        "linear W8A8 min_max",
        "linear_ptq W8A8 min_max",
    ]
    assert lines[0][3] and lines[1][3] == ""
    value = next(
        row.value for row in read_evaluation(run) if row.probe == "knn" and row.bits.weight == 8
    )
    assert lines[1][2].startswith(f"{value:.3f} (")


def test_features_of_several_crops_are_averaged_and_say_so(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(24):
        folder = tmp_path / "images" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (16, 40, 3), dtype=np.uint8)).save(
            folder / f"{number}.png"
        )
    recipe = config(batch_size=8) | {
        "data": {"kind": "image_folder", "root": str(tmp_path / "images"), "size": 16}
    }
    run = pretrain(Recipe.build(resolve_recipe(recipe)), tmp_path / "run", progress="quiet")
    overrides = ["evaluate.probes=[knn]", "evaluate.seeds=1"]
    single, several = evaluate(run, overrides), evaluate(run, overrides, crops=3)
    assert len(single.rows) == len(several.rows)
    assert all((row.protocol.clips, row.protocol.crops) == (1, 3) for row in several.rows)
    assert not any("crops" in str(row.protocol) for row in single.rows)


@pytest.mark.parametrize("keywords", [{"clips": 2}, {"crops": 3}, {"crops": 0}])
def test_several_parts_need_data_that_have_them(run: Path, keywords: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="has no clips or crops to average over"):
        evaluate(run, **keywords)


def test_an_untrained_encoder_has_no_weights_that_training_started_from(tmp_path: Path) -> None:
    library = pytest.importorskip("timm")
    torch.manual_seed(9)
    start = library.create_model("resnet10t", num_classes=0, in_chans=1)
    torch.save(start.state_dict(), tmp_path / "start.pth")
    encoder = {"kind": "timm", "name": "resnet10t"}
    plain = make_run(tmp_path / "plain", encoder)
    started = make_run(
        tmp_path / "started", {**encoder, "pretrained_path": str(tmp_path / "start.pth")}
    )
    quick = ["evaluate.probes=[knn]", "evaluate.seeds=1", "evaluate.branch=online"]
    for run in (plain, started):
        evaluate(run, quick)
    expected, found = (read_baselines(run).untrained for run in (plain, started))
    assert found == expected and len(found) > 3
    first, second = (Recipe.load(run).untrained_encoder(1) for run in (plain, started))
    assert all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))


def test_data_of_another_modality_are_refused_before_they_are_measured(run: Path) -> None:
    written = (run / "evaluation.json").read_bytes()
    with pytest.raises(
        ValueError, match=r"`data` \(speech\) has audio clips, but `views` .* takes images"
    ):
        evaluate(run, ["data={kind: speech}", "evaluate.baselines=false"])
    assert (run / "evaluation.json").read_bytes() == written


def test_a_run_with_a_start_says_what_training_changed(tmp_path: Path) -> None:
    first = pretrain(Recipe.build(config()), tmp_path / "first", progress="quiet")
    run = pretrain(
        Recipe.build(resolve_recipe(config() | {"init": {"path": str(first), "keep": "last"}})),
        tmp_path / "run",
        progress="quiet",
    )
    evaluation = evaluate(run, ["evaluate.baselines=false", "evaluate.seeds=1"])
    start = evaluate(first, ["evaluate.baselines=false", "evaluate.seeds=1"])
    for one in read_changes(run):
        values = [
            max(row.value for row in rows if row.metric == one.metric)
            for rows in (start.rows, evaluation.rows)
        ]
        assert [one.before, one.after] == pytest.approx(values)
    assert read_changes(run) and not read_changes(first)
    words = [text for text, _ in start_words(run)]
    assert any("training" in text for text in words)
    page = write_report(run).read_text(encoding="utf-8")
    assert page.index(words[0][:12]) < page.index("This encoder")
    page = write_report(run).read_text(encoding="utf-8")
    assert "after training" in page and "with 10 labels per class" in page
