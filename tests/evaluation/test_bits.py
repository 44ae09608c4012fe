"""Evaluation by bits: rows, baselines and folds, in fp32 and at low bits."""

import copy
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from mezzotint.data.memory import InMemory
from mezzotint.data.source import Source, Task
from mezzotint.encoders.encoder import Encoder
from mezzotint.evaluation.bits import (
    QuantizedInput,
    check_input_bits,
    evaluate_bits,
    input_bit_rows,
    knn_overlap,
)
from mezzotint.evaluation.calibration import calibration_order, read_calibration
from mezzotint.evaluation.features import Extraction, extract
from mezzotint.evaluation.knn import KNN
from mezzotint.evaluation.label_free import Rank
from mezzotint.evaluation.linear import Linear
from mezzotint.evaluation.measurement import Measurement
from mezzotint.evaluation.probe import Row
from mezzotint.evaluation.ptq import calibrated_copy
from mezzotint.evaluation.suite import evaluate_encoder
from mezzotint.quant.bitwidth import FP32, Bits, calibrate
from mezzotint.quant.convert import make_encoder_quantizable
from mezzotint.types import Features, Input
from tests.evaluation.stripes import COUNT, INPUT, Broken, Net, Stripes, of, quick, values


def test_float_rows_are_the_ordinary_evaluation(trained: Net) -> None:
    ordinary = evaluate_encoder(Measurement(trained, Stripes()), seeds=2)
    found = evaluate_bits(
        Measurement(trained, Stripes()), bits=[Bits(8, 8)], calibration_samples=32, seeds=2
    )
    assert (
        values(of(found.rows, "fp32")) == values(ordinary.rows)
        and found.verdict == ordinary.verdict
    )
    assert values(quick(trained, ["fp32"])) == values(ordinary.rows)


def test_rows_are_complete_and_say_how(trained: Net) -> None:
    rows = quick(
        trained,
        ["fp32", "W4A8", "W4A8", "W2A2"],
        ptq=["min_max", "adaround"],
        reconstruction_steps=2,
    )
    measured = {
        (row.probe, row.metric, row.seed)
        for row in of(rows, "fp32")
        if not row.metric.startswith("all/")
    }
    heads = {
        ("linear_ptq", m, s)
        for p, m, s in measured
        if p == "linear" and not m.endswith(("penalty", "gap"))
    }
    for setting in ("W4A8", "W2A2"):
        for how in (
            "ptq/1 min_max policy=ssql observer=minmax rounding=nearest calibration=32 seed=0; ",
            "ptq/1 adaround policy=ssql observer=mse rounding=adaround steps=2 calibration=32 "
            "seed=0; ",
        ):
            own = [row for row in of(rows, setting) if str(row.protocol).startswith(how)]
            tops = {
                (probe, metric, seed)
                for probe, metric, seed in measured | heads
                if metric.endswith("/top1")
            }
            moved = {
                (p, m.replace("top1", side), s) for p, m, s in tops for side in ("lost", "gained")
            }
            assert {(row.probe, row.metric, row.seed) for row in own} == measured | heads | moved
            assert len(own) == len(measured) + len(heads) + len(moved)
            assert all(
                row.compute == "float32" and str(row.protocol).endswith(("test=40", "test=20"))
                for row in own
            )
    assert {row.bits for row in rows} == {FP32, Bits(4, 8), Bits(2, 2)}


def test_lost_and_gained_are_counted_sample_by_sample(trained: Net) -> None:
    rows = quick(trained, ["W2A2"], probes=[KNN(k=3), Linear()])
    values = {(row.probe, row.metric, row.bits.weight, row.seed): row.value for row in rows}
    for probe, level in (("knn", "knn"), ("linear", "linear"), ("linear_ptq", "linear")):
        for task in ("kind", "pair"):
            lost, gained = (values[probe, f"{task}/{side}", 2, 0] for side in ("lost", "gained"))
            change = values[probe, f"{task}/top1", 2, 0] - values[level, f"{task}/top1", 32, 0]
            assert gained - lost == pytest.approx(change, abs=1e-12)
    # By hand: the float head's answers for each test sample, before and after.
    source = Stripes()
    x, y = extract(trained, source), torch.from_numpy(source.labels)
    with calibrated_copy(
        trained,
        read_calibration(source, INPUT, calibration_order(source.evaluation()[1], COUNT), 32),
    ).at(Bits(2, 2)) as network:
        low = extract(network, source)
    (head,) = Linear().heads(Features(x[:80], y[:80]), seeds=1)
    then, now = (
        head.names[head.logits(features[80:]).argmax(1)] == y[80:] for features in (x, low)
    )
    assert values["linear_ptq", "kind/lost", 2, 0] == (then & ~now).double().mean().item() > 0
    assert values["linear_ptq", "kind/gained", 2, 0] == (now & ~then).double().mean().item()


def test_twice_the_same_and_independent_of_what_else_is_measured(trained: Net) -> None:
    once = quick(trained, ["W8A8", "W3A3", "W2A2"])
    assert values(once) == values(quick(trained, ["W8A8", "W3A3", "W2A2"]))
    assert values(of(once, "W3A3")) == values(of(quick(trained, ["W3A3"]), "W3A3"))
    strong = {"ptq": ["adaround"], "reconstruction_steps": 3}
    several = quick(trained, ["W2A8", "W2A2"], **strong)
    assert values(of(several, "W2A2")) == values(of(quick(trained, ["W2A2"], **strong), "W2A2"))


def test_the_encoder_is_left_as_it_was(trained: Net) -> None:
    quantizable = copy.deepcopy(trained).train()
    make_encoder_quantizable(quantizable, "ssql")
    calibrate(quantizable, [torch.randn(8, 1, 6, 6)])
    for encoder in (trained, quantizable):
        before, classes = copy.deepcopy(encoder.state_dict()), [type(m) for m in encoder.modules()]
        modes = [(m.training, getattr(m, "mode", "")) for m in encoder.modules()]
        quick(encoder, ["W4A4", "W2A2"], ptq=["min_max", "adaround"], reconstruction_steps=2)
        after = encoder.state_dict()
        assert before.keys() == after.keys() and all(
            torch.equal(before[name], after[name]) for name in before
        )
        assert classes == [type(m) for m in encoder.modules()]
        assert modes == [(m.training, getattr(m, "mode", "")) for m in encoder.modules()]


def test_an_encoder_that_is_quantizable_already_gives_the_same_figures(trained: Net) -> None:
    quantizable = copy.deepcopy(trained)
    make_encoder_quantizable(quantizable, "ssql")
    calibrate(
        quantizable, [100 * torch.randn(8, 1, 6, 6)]
    )  # the evaluation does not use the ranges of training
    assert values(quick(quantizable, ["W4A4"])) == values(quick(trained, ["W4A4"]))
    with pytest.raises(
        ValueError,
        match="`evaluate.policy` must be 'ssql', by which .* got 'all'",
    ):
        quick(quantizable, ["W4A4"], policy="all")


def test_more_bits_are_not_worse_beyond_noise(trained: Net) -> None:
    rows = quick(trained, ["W8A8", "W4A4", "W2A2"], probes=[KNN()])
    top1 = {
        s: next(r.value for r in of(rows, s) if r.metric == "kind/top1")
        for s in ("fp32", "W8A8", "W4A4", "W2A2")
    }
    noise = 2 / 40  # two of the test samples
    assert top1["fp32"] >= 0.9 and abs(top1["W8A8"] - top1["fp32"]) <= noise
    assert top1["W8A8"] >= top1["W4A4"] - noise and top1["W4A4"] >= top1["W2A2"] - noise
    target, batch = extract(trained, Stripes()), (Stripes().images[:60].float() / 255 - 0.5) / 0.25
    errors = []
    for setting in ("W8A8", "W6A6", "W4A4", "W2A2"):
        with calibrated_copy(trained, [batch]).at(Bits.parse(setting)) as network:
            errors.append(float((extract(network, Stripes()) - target).square().mean()))
    assert errors == sorted(errors) and errors[-1] > 10 * errors[0] > 0


def test_the_float_head_is_the_float_probes_and_is_not_fitted_again(trained: Net) -> None:
    rows = quick(trained, ["W4A4"], probes=[Linear()])
    with torch.no_grad():
        source = Stripes()
        order = calibration_order(source.evaluation()[1], COUNT)
        with calibrated_copy(trained, read_calibration(source, INPUT, order, 32)).at(
            Bits(4, 4)
        ) as network:
            x = extract(network, source)
    y = torch.from_numpy(source.labels)
    heads = Linear().heads(Features(extract(trained, source)[:80], y[:80]), seeds=2)
    for head in heads:
        expected = (head.names[head.logits(x[80:]).argmax(1)] == y[80:]).double().mean().item()
        found = [
            r
            for r in of(rows, "W4A4")
            if (r.probe, r.metric, r.seed) == ("linear_ptq", "kind/top1", head.seed)
        ]
        assert [row.value for row in found] == [expected]
        assert "head=fp32" in str(found[0].protocol)


def test_without_labels_neighbors_say_what_is_kept(trained: Net) -> None:
    unlabeled = Broken(Stripes((3,)))
    rows = evaluate_bits(Measurement(trained, unlabeled), bits=[Bits(8, 8), Bits(2, 2)]).rows
    fine, coarse = (of(rows, setting) for setting in ("W8A8", "W2A2"))
    assert [[row.metric for row in found] for found in (fine, coarse)] == [
        ["all/knn_overlap"],
        ["all/knn_overlap"],
    ]
    assert 0.8 < fine[0].value <= 1.0 and 9 / (COUNT - 2) < coarse[0].value < fine[0].value
    assert str(fine[0].protocol).endswith(
        f"calibration={COUNT - 1} seed=0; neighbors/1 k=10 samples={COUNT - 1}"
    )
    labeled = evaluate_bits(Measurement(trained, Stripes()), bits=[Bits(8, 8)], seeds=1).rows
    assert not [row for row in labeled if row.metric == "all/knn_overlap"]


def test_folds_are_calibrated_apart_and_averaged_at_low_bits(trained: Net) -> None:
    fold = np.arange(COUNT) // 4 % 3
    parts = [((fold != f).nonzero()[0], (fold == f).nonzero()[0]) for f in range(3)]

    class Folds(Stripes):
        def evaluation(self) -> tuple[Source, Sequence[Task]]:
            return self, [
                Task(f"kind/fold-{f}", "classify", self.labels, *parts[f], list("abcd"))
                for f in range(3)
            ]

    class One(Stripes):
        def evaluation(self) -> tuple[Source, Sequence[Task]]:
            return self, [Task("kind/fold-1", "classify", self.labels, *parts[1], list("abcd"))]

    def measured(source: Source) -> dict[tuple[str, str], Row]:
        options = {"probes": [KNN(k=3), Linear(), Rank()], "calibration_samples": 32, "seeds": 1}
        measurement = Measurement(trained, source)
        rows = evaluate_bits(measurement, bits=[Bits(3, 3)], **options).rows  # type: ignore[arg-type]
        rows = of(rows, "W3A3")
        found = {(row.probe, row.metric): row for row in rows}
        assert len(found) == len(rows)
        return found

    found, alone = measured(Folds()), measured(One())
    own = {key: row for key, row in alone.items() if "fold-1" in key[1]}
    assert (
        own and {key: found[key] for key in own} == own
    )  # the ranges come from the fold's training samples
    for probe in ("knn", "linear", "linear_ptq"):
        for measure in ("top1", "lost", "gained"):
            each = [found[probe, f"kind/fold-{f}/{measure}"].value for f in range(3)]
            mean = found[probe, f"kind/folds/{measure}"]
            assert mean.value == pytest.approx(sum(each) / 3) and str(mean.protocol).endswith(
                "folds=3 test=120"
            )


def test_what_cannot_be_done_is_refused_before_anything_is_measured(trained: Net) -> None:
    class Watched(Net):
        def forward(self, x: Tensor) -> Tensor:
            assert len(x) <= 32, "more than the calibration samples"
            return super().forward(x)

    cases: list[tuple[list[str], dict[str, object], str]] = [
        (["W1A8"], {}, "WeightQuantizer, which supports 2 to 8 bits, got 1"),
        (["W8A8"], {"policy": "none"}, "`policy` must be .*, got 'none'"),
        (
            ["W8A8"],
            {"ptq": ["best"]},
            "`evaluate.ptq` must be min_max, batch_norm, adaround, got 'best'",
        ),
    ]
    for settings, options, message in cases:
        with pytest.raises(ValueError, match=message):
            quick(Watched(), settings, **options)


def extraction(x: torch.Tensor) -> Extraction:
    return Extraction(x, torch.arange(len(x)))


def test_it_is_the_overlap_of_the_ten_nearest_without_the_sample_itself() -> None:
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(60, 5, generator=g), torch.randn(60, 5, generator=g)
    assert knn_overlap(extraction(x), extraction(3.0 * x)).value == 1.0, (
        "cosine: the length does not matter"
    )

    def nearest(features: torch.Tensor, row: int) -> set[int]:
        near = (
            torch.cosine_similarity(features, features[row : row + 1])
            .argsort(descending=True)
            .tolist()
        )
        return set([other for other in near if other != row][:10])

    kept = [len(nearest(x, row) & nearest(y, row)) / 10 for row in range(60)]
    found = knn_overlap(extraction(x), extraction(y))
    assert found.value == pytest.approx(sum(kept) / 60) and found.metric == "all/knn_overlap"
    assert str(found.protocol) == "neighbors/1 k=10 samples=60"


def test_few_samples_have_fewer_neighbors() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(4, 5, generator=g)
    assert str(knn_overlap(extraction(x), extraction(-x)).protocol) == "neighbors/1 k=3 samples=4"
    assert knn_overlap(extraction(x[:1]), extraction(x[:1])).value == 1.0


class Flat(Encoder, abstract=True):
    """The input itself as features."""

    def __init__(self, input: Input) -> None:
        super().__init__(input, int(np.prod(input.shape)))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


class Deep(InMemory):
    """16-bit images of which the class is in the low 6 bits, or rows of a table with it."""

    def __init__(self, *, table: bool = False) -> None:
        rng = np.random.default_rng(0)
        self.labels, self.ids = np.arange(80) % 2, "deep"
        stored = 1024 + rng.integers(0, 32, (80, 2, 4, 4)) + 32 * self.labels[:, None, None, None]
        x = torch.from_numpy(stored / 65535.0).float()
        self.images = x.flatten(1) if table else x
        size = self.images.shape[1]
        self.input = Input(
            tuple(self.images.shape[1:]), (0.02,) * size, (0.01,) * size,
            "table" if table else "image", dtype="" if table else "uint16", bits=0 if table else 16,
        )  # fmt: skip

    def evaluation(self) -> tuple[Source, Sequence[Task]]:
        rows = np.arange(80)
        return self, [Task("low/half", "classify", self.labels, rows[:40], rows[40:], ("a", "b"))]


def test_the_input_is_rounded_to_levels_of_its_range() -> None:
    input = Input((2, 8, 16), (0.3, 0.6), (0.2, 0.1))
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 2, 8, 16)
    x = input.prepare(pixels)
    low, high = (input.normalize(torch.full((1, 2, 8, 16), end))[0, :, 0, 0] for end in (0.0, 1.0))
    for bits in (1, 2, 3, 8, 16):
        found = QuantizedInput(Flat(input), low, high, bits)(x).view(1, 2, 8, 16)
        levels = 2**bits - 1
        expected = np.round(pixels.numpy() / 255.0 * levels) / levels
        mean, std = (np.array(v)[:, None, None] for v in (input.mean, input.std))
        np.testing.assert_allclose(found.numpy(), (expected - mean) / std, atol=2e-5)
        if bits >= 8:  # 8 bits are among the levels of 8 and 16
            torch.testing.assert_close(found, x, atol=2e-5, rtol=0)
    outside = QuantizedInput(Flat(input), low, high, 4)(x + 100.0).view(1, 2, -1)
    torch.testing.assert_close(outside[0], high[:, None].expand(2, 128), atol=1e-4, rtol=0)


def test_a_class_in_the_low_bits_is_lost_where_they_are() -> None:
    source = Deep()
    measurement = Measurement(Flat(source.input), source)
    full = evaluate_encoder(measurement, probes=[Linear()], seeds=1).rows
    rows = input_bit_rows(measurement, full, [8, 16, 12], probes=[Linear()], seeds=1)
    top1 = {row.protocol.input_bits: row.value for row in rows if row.metric == "low/half/top1"}
    assert list(top1) == [16, 12, 8] and top1[16] == 1.0 and top1[8] == 0.5
    assert top1[12] > 0.9  # steps of 16 levels still tell 32 apart
    lost = {r.protocol.input_bits: r.value for r in rows if r.metric == "low/half/lost"}
    assert lost == {16: 0.0, 12: pytest.approx(1.0 - top1[12]), 8: 0.5}
    assert "input_bits=8; linear" in str(rows[-1].protocol) and len(set(rows)) == len(rows)


def test_the_range_of_other_samples_is_measured_where_no_task_tests() -> None:
    """A table uses 64 of 65,536 levels: 8 bits over its own range keep the class."""
    source = Deep(table=True)
    measurement = Measurement(Flat(source.input), source)
    rows = input_bit_rows(measurement, [], [8, 1], probes=[Linear()], seeds=1)
    top1 = {r.protocol.input_bits: r.value for r in rows if r.metric == "low/half/top1"}
    assert top1[8] == 1.0 and top1[1] == 1.0  # the class is the upper half of the range


def test_what_has_no_range_and_bits_out_of_range_are_refused() -> None:
    tokens = Input((8,), (), (), "tokens", 20)
    with pytest.raises(
        ValueError, match="token sequences hold token ids, which have none. Leave it out"
    ):
        check_input_bits(tokens, [8])
    for bits, got in (([0, 8], "0"), ([25], "25"), ([], "none")):
        with pytest.raises(ValueError, match=f"whole numbers of 1 to 24, got {got}. Try --input"):
            check_input_bits(INPUT, bits)
