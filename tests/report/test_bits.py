"""The section on low bits: charts, differences from fp32, and the page."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mezzotint.evaluation.probe import Row
from mezzotint.evaluation.protocol import PTQ, Protocol, PTQMethod
from mezzotint.evaluation.results import interval, paired
from mezzotint.quant.bitwidth import FP32, Bits
from mezzotint.report.bits import bits_section, inputs_section, probe_lines
from mezzotint.report.page import write_report

MakeRun = Callable[..., Path]
TOP1 = "label/holdout/top1"


def row(
    probe: str,
    value: float,
    bits: tuple[int, int] = (32, 32),
    *,
    how: PTQMethod | None = None,
    seed: int = 0,
) -> Row:
    ptq = PTQ(method=how, policy="ssql", calibration=512) if how else None
    name = probe.removesuffix("_ptq")  # a frozen head has the protocol of its probe
    protocol = Protocol(probe=name, train=48, test=100, ptq=ptq)
    return Row(
        probe=probe, metric=TOP1, value=value, bits=Bits(*bits), seed=seed, protocol=protocol
    )


def evaluation(shift: float = 0.0) -> list[Row]:
    rows = [row("knn", 0.8 + shift)]
    rows += [row("linear", 0.90 + 0.01 * seed + shift, seed=seed) for seed in range(3)]
    ways: tuple[tuple[PTQMethod, float], ...] = (("min_max", 0.0), ("adaround", 0.05))
    for how, gain in ways:
        for bits, drop in (((8, 8), 0.01), ((2, 8), 0.2), ((4, 4), 0.1)):
            rows.append(row("knn", 0.8 - drop + gain + shift, bits, how=how))
            for seed in range(3):
                rows.append(
                    row("linear", 0.9 + 0.01 * seed - drop + gain + shift, bits, how=how, seed=seed)
                )
                rows.append(
                    row(
                        "linear_ptq", 0.9 + 0.01 * seed - 2 * drop + shift, bits, how=how, seed=seed
                    )
                )
    rows.append(Row(probe="rank", metric="all/spread", value=0.9, protocol=Protocol(probe="rank")))
    return rows


def test_settings_of_a_probe_are_charts_and_never_averaged() -> None:
    rows = [row("knn", 0.8), row("knn", 0.7, (4, 4), how="min_max")]
    near = [r.with_protocol(settings=(("k", 10),)) for r in rows]
    far = [replace(r, value=r.value / 2).with_protocol(settings=(("k", 200),)) for r in rows]
    found = probe_lines({"mine": [*near, *far]})
    assert [probe.title for probe in found] == [
        "kNN, k=10, label, holdout",
        "kNN, k=200, label, holdout",
    ]
    values = [[v.mean for v in line.values.values()] for p in found for line in p.lines]
    assert values == [[0.8, 0.7], [0.4, 0.35]]


def test_tags_at_low_bits_are_drawn_by_mean_average_precision() -> None:
    rows = [row("linear", 0.5), row("linear", 0.4, (4, 4), how="min_max")]
    tags = [replace(r, metric=f"tag/{m}", value=r.value) for r in rows for m in ("map", "auc")]
    tags = [replace(r, value=0.9) if r.metric == "tag/auc" else r for r in tags]
    [probe] = probe_lines({"mine": tags})
    assert [v.mean for v in probe.lines[0].values.values()] == [0.5, 0.4]


def test_a_probe_has_a_line_for_each_ptq_and_fp32_in_each() -> None:
    found = probe_lines({"mine": evaluation()})
    assert [probe.title for probe in found] == [
        "kNN, label, holdout",
        "Linear probe, label, holdout",
    ]
    assert [line.ptq for line in found[0].lines] == ["min-max PTQ", "AdaRound"]
    linear = {line.ptq: line for line in found[1].lines}
    assert set(linear) == {
        "min-max PTQ", "min-max PTQ, frozen head", "AdaRound", "AdaRound, frozen head",
    }  # fmt: skip
    assert len({line.stroke for line in linear.values()}) == 4
    level = interval([r for r in evaluation() if r.probe == "linear" and r.bits.is_float])
    for line in linear.values():
        assert set(map(str, line.values)) == {"fp32", "W8A8", "W4A4", "W2A8"}
        assert line.values[FP32] == level
    assert linear["min-max PTQ, frozen head"].values[Bits(2, 8)].mean == pytest.approx(0.91 - 0.4)
    own = [
        r
        for r in evaluation()
        if r.probe == "linear" and r.bits.weight == 4 and r.protocol.ptq_method == "adaround"
    ]
    assert linear["AdaRound"].values[Bits(4, 4)] == interval(own)


def test_without_labels_the_metric_is_knn_overlap() -> None:
    rows = [Row(probe="rank", metric="all/spread", value=0.9, protocol=Protocol(probe="rank"))]
    how = Protocol(probe="neighbors", ptq=PTQ(method="min_max", policy="ssql"))
    rows += [
        Row(
            probe="neighbors",
            metric="all/knn_overlap",
            value=bits / 10,
            bits=Bits(bits, bits),
            protocol=how,
        )
        for bits in (8, 4)
    ]
    section = bits_section({"mine": rows})
    assert section is not None and section["configs"] == ["W8A8", "W4A4"]
    assert (
        section["charts"][0]["title"].startswith("kNN overlap, ")
        and "Without labels" in section["how"]
    )
    assert section["table"][0]["rows"] == [
        {"name": "min-max PTQ", "fp32": "–", "cells": [("0.800", "–"), ("0.400", "–")]}
    ]


def test_the_table_has_differences_and_the_chart_is_in_order() -> None:
    section = bits_section({"mine": evaluation()}, first=7)
    assert section is not None and section["first"] == 7 and section["runs"] == []
    assert section["configs"] == ["W8A8", "W4A4", "W2A8"]
    plain = section["table"][0]["rows"][0]
    assert plain == {
        "name": "min-max PTQ",
        "fp32": "0.800",
        "cells": [("0.790", "−0.010"), ("0.700", "−0.100"), ("0.600", "−0.200")],
    }
    chart = section["charts"][0]
    assert [tick.text for tick in chart["x_ticks"]] == ["fp32", "W8A8", "W4A4", "W2A8"]
    across = [tick.at for tick in chart["x_ticks"]]
    assert across == sorted(across)
    line = chart["lines"][0]
    heights = [y for _, y in line["dots"]]
    assert (
        heights == sorted(heights) and line["level"] == heights[0]
    )  # lower values are further down
    assert line["band"] and not chart["lines"][1]["band"]
    assert chart["points"][2][2] == "W4A4: min-max PTQ 0.700; AdaRound 0.750"


def test_differences_carry_the_interval_of_the_same_samples() -> None:
    rows = evaluation()
    for name, fraction in (("lost", 0.12), ("gained", 0.02)):
        rows.append(
            replace(row("knn", fraction, (4, 4), how="min_max"), metric=f"label/holdout/{name}")
        )
    section = bits_section({"mine": rows})
    assert section is not None and "paired over the test samples" in section["how"]
    low, high = paired(0.02, 0.12, 100)
    words = f"−0.100 ± {(high - low) / 2:.3f}"
    assert section["table"][0]["rows"][0]["cells"] == [
        ("0.790", "−0.010"),
        ("0.700", words),
        ("0.600", "−0.200"),
    ]
    assert (
        section["charts"][0]["points"][2][2] == f"W4A4: min-max PTQ 0.700 ({words}); AdaRound 0.750"
    )


def test_heights_are_to_scale() -> None:
    section = bits_section({"mine": evaluation()})
    assert section is not None
    chart = section["charts"][0]
    (low, bottom), (high, top) = [
        (float(t.text), t.at) for t in (chart["y_ticks"][0], chart["y_ticks"][-1])
    ]
    for (_, y), value in zip(chart["lines"][1]["dots"], (0.8, 0.84, 0.75, 0.65), strict=True):
        assert y == pytest.approx(bottom + (value - low) / (high - low) * (top - bottom), abs=0.1)


def test_several_runs_lie_over_one_another() -> None:
    section = bits_section({"mine": evaluation(), "theirs": evaluation(-0.1)})
    assert section is not None
    assert section["runs"] == [("mine", 0), ("theirs", 1)]
    assert [line["color"] for line in section["charts"][0]["lines"]] == [0, 0, 1, 1]
    assert len(section["table"][0]["rows"]) == 2  # of the report's own run alone
    assert "mine min-max PTQ 0.790" in section["charts"][0]["points"][1][2]
    assert "theirs min-max PTQ 0.690" in section["charts"][0]["points"][1][2]


def test_without_low_bits_there_is_no_section() -> None:
    floats = [r for r in evaluation() if r.bits.is_float]
    assert bits_section({"mine": floats}) is None and bits_section({"mine": []}) is None
    assert bits_section({"mine": floats, "theirs": evaluation()}) is None


def test_low_bits_without_float_have_no_differences() -> None:
    section = bits_section({"mine": [r for r in evaluation() if not r.bits.is_float]})
    assert section is not None
    assert (
        section["table"][0]["rows"][0]["cells"][0] == ("0.790", "–")
        and section["charts"][0]["lines"][0]["level"] is None
    )


def write(run: Path, rows: list[Row]) -> None:
    plain = [r.as_json() for r in rows]
    (run / "evaluation.json").write_text(json.dumps(plain))


def test_the_page_holds_the_section_and_the_float_table_stays_float(
    make_run: MakeRun, tmp_path: Path
) -> None:
    run, other = make_run(), tmp_path / "other"
    before = write_report(run).read_text(encoding="utf-8")
    assert 'id="bits"' not in before
    write(run, evaluation())
    other.mkdir()
    write(other, evaluation(-0.1))
    page = write_report(run, [other]).read_text(encoding="utf-8")
    section = page[page.index('id="bits"') : page.index('id="data"')]
    assert "Quantization to low bits" in section and "other" in section and "−0.200" in section
    results = page[page.index('id="results"') : page.index('id="curves"')]
    assert "0.600" not in results and "W4A4" not in results
    data = json.loads(page[page.index('id="data">') + 10 :].partition("</script>")[0])
    assert data["charts"][-1][1][2].startswith("W8A8: ")
    assert page.count("data-chart=") == len(data["charts"])
    with pytest.raises(
        ValueError,
        match="`--compare` must name evaluated runs, and .*nowhere` has no evaluation.json",
    ):
        write_report(run, [tmp_path / "nowhere"])


def test_the_input_bit_curve_has_stored_values_bits_and_paired_differences() -> None:
    full = [row("knn", 0.9), row("knn", 0.7, (4, 4), how="min_max")]
    low = [
        row("knn", value).with_protocol(input_bits=bits)
        for bits, value in ((16, 0.9), (4, 0.6), (8, 0.8))
    ]
    sides = [
        replace(r, metric=f"label/holdout/{name}", value=value)
        for r, lost in zip(low, (0.0, 0.35, 0.1), strict=True)
        for name, value in (("lost", lost), ("gained", 0.05 * (lost == 0.35)))
    ]
    assert inputs_section(full, []) is None
    section = inputs_section(full, [*low, *sides], first=3)
    assert section is not None and section["configs"] == ["16", "8", "4"]
    (chart,) = section["charts"]
    assert [tick.text for tick in chart["x_ticks"]] == ["stored", "16", "8", "4"]
    assert chart["summary"] == "stored 0.900, lowest 0.600 at 4 bits"
    assert chart["lines"][0]["band"] and chart["lines"][0]["level"] is not None
    (entry,) = section["table"]
    low_end, high_end = paired(0.05, 0.35, 100)
    half = (high_end - low_end) / 2
    assert entry["stored"] == "0.900" and entry["cells"][2] == ("0.600", f"−0.300 ± {half:.3f}")
