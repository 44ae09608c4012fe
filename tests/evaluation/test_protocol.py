"""Protocols: their text, which tables show, and their way through JSON."""

import json
from dataclasses import replace

import pytest

from mezzotint.evaluation.knn import KNN
from mezzotint.evaluation.protocol import PTQ, Protocol, differences

LOW = PTQ(
    method="adaround",
    policy="ssql",
    settings=(("observer", "mse"), ("rounding", "adaround"), ("steps", 500)),
    calibration=512,
)
FULL = Protocol(
    probe="linear",
    version=2,
    settings=(("validation", 0.2), ("center", False), ("passes", 1000)),
    fp32_head=True,
    train=1911,
    test=388,
    ptq=LOW,
    branch="target",
    part="projector",
    clips=5,
    crops=3,
)


def test_the_text_has_every_field() -> None:
    assert str(FULL) == (
        "clips=5 crops=3; branch=target part=projector; "
        "ptq/1 adaround policy=ssql observer=mse rounding=adaround steps=500 calibration=512 "
        "seed=0; linear/2 validation=0.2 center=False passes=1000 head=fp32 train=1911 test=388"
    )
    assert str(Protocol(probe="knn")) == "knn/1"
    assert str(Protocol.of("knn", k=10, temperature=1e-07)) == "knn/1 k=10 temperature=1e-07"
    assert str(Protocol(probe="evar", test=90, folds=3)) == "evar/1 folds=3 test=90"
    assert str(KNN().protocol) == "knn/1 k=10 metric=cosine temperature=0.07 center=False"


@pytest.mark.parametrize("protocol", [FULL, Protocol(probe="knn"), KNN().protocol])
def test_json_keeps_every_field_and_leaves_defaults_out(protocol: Protocol) -> None:
    plain = json.loads(json.dumps(protocol.as_json()))
    assert Protocol.from_json(plain) == protocol
    assert hash(Protocol.from_json(plain)) == hash(protocol)
    assert set(Protocol(probe="knn").as_json()) == {"probe", "version", "settings"}


def test_protocols_that_differ_in_any_field_are_unequal() -> None:
    others = [
        replace(FULL, fp32_head=False),
        replace(FULL, ptq=replace(LOW, method="min_max")),
        replace(FULL, ptq=None),
        FULL.with_settings(center=True),
        FULL.without_sizes(),
    ]
    assert len({FULL, *others}) == 6
    assert [other.ptq_method for other in others[1:3]] == ["min_max", ""]


def test_changed_settings_keep_their_order() -> None:
    changed = FULL.with_settings(center=True, select="top1")
    assert [name for name, _ in changed.settings] == ["validation", "center", "passes", "select"]
    assert dict(changed.settings)["center"] is True
    assert (FULL.without_sizes().train, FULL.without_sizes().test) == (None, None)


def test_only_what_differs_is_named() -> None:
    first = Protocol.of("knn", k=10, temperature=0.07)
    second = Protocol.of("knn", k=200, temperature=0.07)
    ptq = PTQ(method="min_max", policy="ssql", calibration=64)
    assert differences([first, first]) == {first: ""}
    assert differences([first, second]) == {first: "k=10", second: "k=200"}
    other = Protocol.of("evar")
    assert differences([first, second, other])[first] == "knn k=10"
    assert differences([first, other])[other] == "evar"
    low = [replace(first, ptq=replace(ptq, calibration=n)) for n in (64, 128)]
    assert list(differences(low).values()) == ["calibration=64", "calibration=128"]
