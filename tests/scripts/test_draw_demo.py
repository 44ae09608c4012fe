"""Pictures of the demo: frames go from map to map, and the bits curve has what was measured."""

import sys
from pathlib import Path

import numpy as np

from mezzotint.evaluation.probe import Row
from mezzotint.evaluation.protocol import Protocol
from mezzotint.evaluation.results import Evaluation, write_evaluation
from mezzotint.quant import Bits
from tests import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import draw_demo  # noqa: E402


def test_frames_begin_and_end_at_maps_and_move_between() -> None:
    planes = [np.full((3, 2), value) for value in (0.0, 1.0, 0.5)]
    frames = draw_demo.between(planes)
    values = [float(plane[0, 0]) for _, plane in frames]
    steps = draw_demo.STEPS
    assert values[0] == 0.0 and values[steps] == 1.0 and values[-draw_demo.PAUSE :] == [0.5] * 5
    assert values[:steps] == sorted(values[:steps]) and 0.0 < values[1] < 0.5
    assert [number for number, _ in frames[: 2 * steps + 1 : steps]] == [0, 1, 2]


def test_the_curve_has_a_line_for_each_probe_and_a_label_for_each_bit_config(
    tmp_path: Path,
) -> None:
    rows = [
        Row(
            probe=probe,
            metric="category/across-styles/top1",
            value=value + bits / 100,
            protocol=Protocol.of(probe),
            bits=Bits(bits, bits),
        )
        for probe, value in (("knn", 0.5), ("linear", 0.4))
        for bits in (32, 8, 2)
    ]
    write_evaluation(
        tmp_path, Evaluation([row.with_protocol(test=400) for row in rows], verdict="")
    )
    draw_demo.draw_bits(tmp_path, tmp_path / "bits.svg")
    text = (tmp_path / "bits.svg").read_text(encoding="utf-8")
    assert text.count("<polyline") == 2
    for word in ("fp32", "W8A8", "W2A2", "kNN", "linear probe"):
        assert f">{word}</text>" in text
