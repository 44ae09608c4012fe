"""The protocol of a result: everything that two rows must share to be compared.

A protocol is an object from the probe to `evaluation.json` and back. Its text is for people: tables
and reports show it, and nothing reads it back.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

Setting = str | int | float | bool
Settings = tuple[tuple[str, Setting], ...]
"""Names and values, in the order in which they are shown."""

PTQMethod = Literal["min_max", "batch_norm", "adaround"]


@dataclass(frozen=True, kw_only=True)
class PTQ:
    """How an encoder was quantized after training.

    Attributes:
        method: `min_max`, `batch_norm` or `adaround`; see `mezzotint.evaluation.ptq`.
        policy: layers that were quantized.
        settings: observer, rounding, and what else the method has.
        calibration: number of calibration samples.
        seed: seed of the calibration samples.
        version: rises when the same settings would give another result.
    """

    method: PTQMethod
    policy: str
    settings: Settings = ()
    calibration: int = 0
    seed: int = 0
    version: int = 1

    def __str__(self) -> str:
        shown = (("policy", self.policy), *self.settings, ("calibration", self.calibration))
        return f"ptq/{self.version} {self.method} {_text((*shown, ('seed', self.seed)))}"


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The probe with its settings, the number of samples, and the measured network.

    Attributes:
        probe: name of the probe's protocol.
        version: rises when the same settings would give another result.
        settings: settings of the probe.
        fp32_head: whether the classifier was fitted on fp32 features and scored on quantized ones.
        train: number of training samples.
        test: number of test samples, all folds together.
        folds: number of folds that the value is averaged over.
        ptq: post-training quantization; `None` in fp32.
        branch: network of the method: `online`, or `target` for its momentum copy.
        part: `backbone`, or `projector` for the output of the projector.
        clips: clips per video that features are averaged over.
        crops: crops per image or frame that features are averaged over.
        input_bits: bits to which the input was quantized; `None` for the input as it is.
    """

    probe: str
    version: int = 1
    settings: Settings = ()
    fp32_head: bool = False
    train: int | None = None
    test: int | None = None
    folds: int | None = None
    ptq: PTQ | None = None
    branch: str = "online"
    part: str = "backbone"
    clips: int = 1
    crops: int = 1
    input_bits: int | None = None

    @classmethod
    def of(cls, probe: str, version: int = 1, /, **settings: Setting | None) -> "Protocol":
        """Make the protocol of a probe from its settings, in the order given, without `None`."""
        given = tuple((name, value) for name, value in settings.items() if value is not None)
        return cls(probe=probe, version=version, settings=given)

    @property
    def ptq_method(self) -> str:
        """The method of post-training quantization, empty in fp32."""
        return "" if self.ptq is None else self.ptq.method

    def with_settings(self, **changes: Setting) -> "Protocol":
        """Return the protocol with some settings changed."""
        return replace(self, settings=tuple({**dict(self.settings), **changes}.items()))

    def without_sizes(self) -> "Protocol":
        """Return the protocol without the sizes of the split, so that one probe has one text."""
        return replace(self, train=None, test=None)

    def as_json(self) -> dict[str, Any]:
        """Return plain data; fields at their defaults are left out."""
        plain: dict[str, Any] = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if getattr(self, field.name) != field.default
        }
        plain |= {"version": self.version, "settings": dict(self.settings)}
        if self.ptq is not None:
            plain["ptq"] = {**vars(self.ptq), "settings": dict(self.ptq.settings)}
        return plain

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> "Protocol":
        """Make the protocol again from what `as_json` returned."""
        found = {**entry, "settings": tuple(entry["settings"].items())}
        if found.get("ptq") is not None:
            ptq = found["ptq"]
            found["ptq"] = PTQ(**{**ptq, "settings": tuple(ptq["settings"].items())})
        return cls(**found)

    def __str__(self) -> str:
        parts = []
        if (self.clips, self.crops) != (1, 1):
            parts.append(f"clips={self.clips} crops={self.crops}")
        if self.input_bits is not None:
            parts.append(f"input_bits={self.input_bits}")
        if (self.branch, self.part) != ("online", "backbone"):
            parts.append(f"branch={self.branch} part={self.part}")
        if self.ptq is not None:
            parts.append(str(self.ptq))
        shown: dict[str, Setting | None] = dict(self.settings)
        shown |= {"head": "fp32" if self.fp32_head else None, "folds": self.folds}
        shown |= {"train": self.train, "test": self.test}
        settings = _text(tuple((name, value) for name, value in shown.items() if value is not None))
        return "; ".join([*parts, f"{self.probe}/{self.version} {settings}".strip()])


def differences(protocols: Iterable[Protocol]) -> dict[Protocol, str]:
    """Return a short text for each protocol: only what differs among those of the same name.

    Where names differ, the name comes first. A protocol that stands alone has an empty text.
    """
    distinct = list(dict.fromkeys(protocols))
    names = {protocol.probe for protocol in distinct}
    texts = {}
    for own in distinct:
        same = [_facts(other) for other in distinct if other.probe == own.probe]
        keys = dict.fromkeys(key for facts in same for key in facts)
        facts = _facts(own)
        shown = [
            (key, facts[key])
            for key in keys
            if key in facts and len({other.get(key) for other in same}) > 1
        ]
        texts[own] = f"{own.probe if len(names) > 1 else ''} {_text(tuple(shown))}".strip()
    return texts


def _facts(protocol: Protocol) -> dict[str, Setting]:
    """Return all that two protocols of one name can differ in, by name."""
    ptq = protocol.ptq
    plain = {
        "version": protocol.version,
        **dict(protocol.settings),
        "head": "fp32" if protocol.fp32_head else None,
        **{key: getattr(protocol, key) for key in ("folds", "train", "test")},
        **{key: getattr(protocol, key) for key in ("branch", "part", "clips", "crops")},
        "input_bits": protocol.input_bits,
    }
    if ptq is not None:
        plain |= {"ptq": ptq.method, "policy": ptq.policy, **dict(ptq.settings)}
        plain |= {"calibration": ptq.calibration, "calibration_seed": ptq.seed}
    return {key: value for key, value in plain.items() if value is not None}


def _text(settings: Settings) -> str:
    """Write settings as `name=value`, floats without trailing zeros."""
    return " ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in settings
    )
