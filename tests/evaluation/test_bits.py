"""Evaluation by bits: what is shared, what is left alone, and the papers' protocol against a naive one."""

import copy
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mezzotint.data.image.embedded import EmbeddedImages
from mezzotint.data.memory import InMemory
from mezzotint.data.source import Source, Task
from mezzotint.encoders.encoder import Encoder
from mezzotint.evaluation.bits import evaluate_bits
from mezzotint.evaluation.calibration import calibration_order, read_calibration
from mezzotint.evaluation.features import Reading, extract
from mezzotint.evaluation.knn import KNN
from mezzotint.evaluation.label_free import Rank
from mezzotint.evaluation.linear import Linear
from mezzotint.evaluation.measurement import Measurement
from mezzotint.evaluation.probe import Row
from mezzotint.evaluation.ptq import Calibrated, calibrated_copy
from mezzotint.evaluation.suite import evaluate_encoder
from mezzotint.quant.bitwidth import FP32, Bits, bits, calibrate
from mezzotint.quant.convert import make_encoder_quantizable
from mezzotint.types import Features, Input, Sample, Unreadable

INPUT = Input((1, 6, 6), (0.5,), (0.25,))
COUNT = 120


class Stripes(InMemory):
    """Four kinds of noisy stripes; the first two thirds are learned from. Every sample that is read is written down."""

    def __init__(self, bad: tuple[int, ...] = ()) -> None:
        g = torch.Generator().manual_seed(0)
        self.input = INPUT
        self.labels = np.arange(COUNT) % 4
        clean = torch.zeros(4, 1, 6, 6)
        clean[0, :, ::2], clean[1, :, 1::2], clean[2, ..., ::2], clean[3, ..., 1::2] = (
            90,
            90,
            90,
            90,
        )
        noise = torch.randint(160, (COUNT, 1, 6, 6), generator=g)
        self.images = (clean[torch.from_numpy(self.labels)] + noise).clamp(0, 255).to(torch.uint8)
        self.ids = "stripes"
        self.bad = bad

    def evaluation(self) -> tuple[Source, Sequence[Task]]:
        train, test = np.arange(80), np.arange(80, COUNT)
        return (Broken(self) if self.bad else self), [
            Task("kind", "classify", self.labels, train, test, list("abcd")),
            Task("pair", "classify", self.labels % 2, train[20:], np.arange(20), list("ab")),
        ]


class Broken(Source):
    """The same samples one by one, some of which fail."""

    def __init__(self, whole: Stripes) -> None:
        self.whole, self.input = whole, whole.input

    def __len__(self) -> int:
        return COUNT

    def read(self, index: int) -> Sample:
        if index in self.whole.bad:
            raise Unreadable(str(index), "broken")
        return self.whole.read(index)

    def fingerprint(self) -> str:
        return "0"


class Net(Encoder):
    """Two convolutions, whose second input is what the papers' policy quantizes."""

    def __init__(self) -> None:
        super().__init__(INPUT, dim=16)
        self.first, self.act = nn.Conv2d(1, 8, 3, padding=1), nn.ReLU()
        self.norm, self.second = nn.BatchNorm2d(8), nn.Conv2d(8, 16, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.norm(self.act(self.first(x)))).relu().mean((2, 3))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def trained() -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net, head, source = Net(), nn.Linear(16, 4), Stripes()
        optimizer = torch.optim.Adam([*net.parameters(), *head.parameters()], lr=0.01)
        x = (source.images[:80].float() / 255 - 0.5) / 0.25
        y = torch.from_numpy(source.labels[:80])
        for _ in range(60):
            optimizer.zero_grad()
            functional.cross_entropy(head(net(x)), y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return net


def values(rows: Sequence[Row]) -> list[tuple[str, str, float, int, str]]:
    return [(row.probe, row.metric, row.value, row.seed, str(row.protocol)) for row in rows]


def of(rows: Sequence[Row], text: str) -> list[Row]:
    return [row for row in rows if row.bits == Bits.parse(text)]


def quick(encoder: Encoder, bits: Sequence[str], **options: object) -> list[Row]:
    return evaluate_bits(
        Measurement(encoder, Stripes()),
        bits=[Bits.parse(text) for text in bits],
        calibration_samples=32,
        seeds=2,
        **options,  # type: ignore[arg-type]
    ).rows


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
            "ptq/1 adaround policy=ssql observer=mse rounding=adaround steps=2 calibration=32 seed=0; ",
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
    )  # ranges of training are not those of the evaluation
    assert values(quick(quantizable, ["W4A4"])) == values(quick(trained, ["W4A4"]))
    with pytest.raises(
        ValueError,
        match="`evaluate.policy` must be 'ssql', by which the encoder is quantizable already, got 'all'",
    ):
        quick(quantizable, ["W4A4"], policy="all")


@pytest.mark.parametrize("setting", ["W8A8", "W4A4", "W3A5", "W2A2"])
def test_plain_is_the_papers_quantizer(trained: Net, setting: str) -> None:
    """SSQL's arithmetic, written anew: per channel with the divisor (2^b − 1) / 2; per tensor from the extremes."""
    net, source = copy.deepcopy(trained).eval(), Stripes()
    wanted = Bits.parse(setting)
    order = calibration_order(source.evaluation()[1], COUNT)
    batch = torch.cat(read_calibration(source, INPUT, order, 32))

    def weight(w: Tensor, bits: int) -> Tensor:
        rows = []
        for row in w:
            scale = row.abs().max() / ((2**bits - 1) / 2)
            rows.append(
                scale
                * torch.clamp(torch.round(row / scale), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
            )
        return torch.stack(rows)

    with torch.no_grad():
        inner = net.norm(net.act(net.first(batch)))
        low, high = inner.min(), inner.max()
        scale = (high - low) / (2**wanted.activation - 1)
        zero = -torch.round(low / scale)
        x = (source.images.float() / 255 - 0.5) / 0.25
        hidden = functional.conv2d(x, weight(net.first.weight, 8), net.first.bias, padding=1).relu()
        hidden = net.norm(hidden)
        codes = torch.clamp(torch.round(hidden / scale) + zero, 0, 2**wanted.activation - 1)
        expected = functional.conv2d(
            (codes - zero) * scale, weight(net.second.weight, wanted.weight)
        )
        expected = expected.relu().mean((2, 3))
    with calibrated_copy(trained, [batch]).at(wanted) as network:
        found = extract(network, source)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_quantizing_weights_once_changes_nothing(trained: Net) -> None:
    batch = torch.randn(16, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    made = calibrated_copy(trained, [batch], policy="all")
    parameters = [(name, p.data_ptr()) for name, p in made.network.named_parameters()]
    made.network.eval()
    with bits(made.network, weight=3, activation=4):
        anew = made.network(batch)
    with made.at(Bits(3, 4)) as network:
        torch.testing.assert_close(network(batch), anew, rtol=0, atol=0)
    assert parameters == [(name, p.data_ptr()) for name, p in made.network.named_parameters()]
    assert not torch.equal(made.network(batch), anew)  # and float again outside


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


def test_strong_rounds_better_than_plain(trained: Net) -> None:
    source = Stripes()
    batches = read_calibration(source, INPUT, calibration_order(source.evaluation()[1], COUNT), 60)
    target = extract(trained, source)

    def error(made: Calibrated) -> float:
        with made.at(Bits(2, 4)) as network:
            return float((extract(network, source) - target).square().mean())

    plain, strong = (
        calibrated_copy(trained, batches),
        calibrated_copy(trained, batches, "adaround", steps=150),
    )
    assert error(strong) < 0.8 * error(plain)


def test_corrected_leaves_the_network_as_it_was(trained: Net) -> None:
    source = Stripes()
    batches = read_calibration(source, INPUT, calibration_order(source.evaluation()[1], COUNT), 60)
    target = extract(trained, source)
    errors = {}
    for method in ("min_max", "batch_norm"):
        made = calibrated_copy(trained, batches, method)
        before = {name: value.clone() for name, value in made.network.state_dict().items()}
        with made.at(Bits(2, 8)) as network:
            errors[method] = float((extract(network, source) - target).square().mean())
        after = made.network.state_dict()
        assert before.keys() == after.keys() and all(
            torch.equal(before[name], after[name]) for name in before
        )
        assert ("batchnorm=reestimated" in str(made.ptq)) == (method == "batch_norm")
    assert errors["batch_norm"] < errors["min_max"]


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


def test_calibration_is_of_training_samples_alone_and_of_the_number_asked() -> None:
    source, count = EmbeddedImages(name="emoji"), 512
    samples, tasks = source.evaluation()
    order = calibration_order(tasks, len(samples))
    tested = np.unique(np.concatenate([task.test for task in tasks]))
    trained_on = np.unique(np.concatenate([task.train for task in tasks]))
    assert (
        len(np.intersect1d(order.numpy(), tested)) == 0 and np.isin(order.numpy(), trained_on).all()
    )
    assert len(set(order.tolist())) == len(order) and not torch.equal(order, order.sort().values)
    assert torch.equal(order, calibration_order(tasks, len(samples)))
    assert not torch.equal(order, calibration_order(tasks, len(samples), seed=1))
    batches = read_calibration(samples, source.input, order, count, Reading(100))
    assert [len(batch) for batch in batches] == [100] * 5 + [12]
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (source.input.mean, source.input.std))
    torch.testing.assert_close(
        torch.cat(batches), (source.read_batch(order[:count]) / 255.0 - mean) / std
    )


def test_calibration_passes_over_what_cannot_be_read() -> None:
    source = Stripes()
    order = calibration_order(source.evaluation()[1], COUNT)
    assert len(order) == 60  # 80 to learn from, of which 20 are tested by the other task
    bad = tuple(order[[0, 3, 30]].tolist())
    kept = [index for index in order.tolist() if index not in bad]
    broken = Stripes(bad).evaluation()[0]
    found = torch.cat(read_calibration(broken, INPUT, order, 32, Reading(8)))
    assert torch.equal(found, torch.cat(read_calibration(source, INPUT, torch.tensor(kept), 32)))
    assert sum(map(len, read_calibration(broken, INPUT, order))) == 57, (
        "all there are, where no number is asked for"
    )
    with pytest.raises(
        ValueError,
        match="`evaluate.calibration_samples` must be at most 57, the readable samples of 60, got 58",
    ):
        read_calibration(broken, INPUT, order, 58)
    for count in (0, 61):
        with pytest.raises(ValueError, match=f"`--calibration` must be 1 to 60, .* got {count}"):
            read_calibration(source, INPUT, order, count, option="--calibration")
    with pytest.raises(ValueError, match="There are no calibration samples"):
        read_calibration(source, INPUT, order[:0])
    with pytest.raises(ValueError, match="There are no calibration samples: 3 are trained on"):
        read_calibration(broken, INPUT, torch.tensor(bad))


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
    )  # the ranges are those of the fold's training samples
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


def test_a_side_can_stay_float(trained: Net) -> None:
    with calibrated_copy(trained, [torch.randn(32, 1, 6, 6)]).at(FP32) as network:
        assert torch.equal(extract(network, Stripes()), extract(trained, Stripes()))
    rows = quick(trained, ["W2A32", "32/2"], probes=[KNN()])
    assert of(rows, "W2A32") and of(rows, "32/2")


def test_nothing_to_quantize_is_refused() -> None:
    class Flat(Encoder):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)

    with pytest.raises(ValueError, match="Flat has nothing to quantize"):
        quick(Flat(INPUT, 36), ["W8A8"])
