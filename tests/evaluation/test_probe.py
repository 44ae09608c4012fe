"""Rows: complete by keyword, and through JSON; the contract of probes is `test_contract_probes`."""

import dataclasses
import json
import math

import pytest

from mezzotint.evaluation.probe import Row
from mezzotint.evaluation.protocol import Protocol
from mezzotint.quant.bitwidth import Bits

ROW = Row(
    probe="knn",
    metric="class/top1",
    value=0.5,
    protocol=Protocol.of("knn", k=3),
    bits=Bits(4, 8),
    seed=2,
)


def test_a_row_is_keyword_only() -> None:
    with pytest.raises(TypeError):
        Row("knn", "class/top1", 0.5, Protocol(probe="knn"))  # type: ignore[call-arg]


def test_a_row_goes_through_json() -> None:
    plain = json.loads(json.dumps(ROW.as_json()))
    assert plain["bits"] == "W4A8" and plain["protocol"]["settings"] == {"k": 3}
    assert Row.from_json(plain) == ROW


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_null(value: float) -> None:
    plain = dataclasses.replace(ROW, value=value).as_json()
    assert plain["value"] is None and math.isnan(Row.from_json(plain).value)


def test_rows_of_other_versions_are_refused() -> None:
    plain = ROW.as_json()
    with pytest.raises(ValueError, match="rows have other keys"):
        Row.from_json({key: value for key, value in plain.items() if key != "bits"})
    with pytest.raises(ValueError, match="protocols are texts"):
        Row.from_json(plain | {"protocol": "knn/1 k=3"})


def test_some_fields_of_the_protocol_are_changed() -> None:
    changed = ROW.with_protocol(train=10, test=20)
    assert (changed.protocol.train, changed.protocol.test, changed.value) == (10, 20, 0.5)
    assert changed.protocol.settings == ROW.protocol.settings and ROW.protocol.test is None
