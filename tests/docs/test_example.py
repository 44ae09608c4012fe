"""The method that docs/methods.md writes out: it runs, it collapses, and the signal says so."""

import re
from typing import Any

import torch
from torch import Tensor, nn

from mezzotint.encoders.encoder import Encoder
from mezzotint.seeding import Draws
from mezzotint.types import Input, Views
from tests import ROOT

PAGE = ROOT / "docs" / "methods.md"


class Flat(Encoder):
    def __init__(self) -> None:
        super().__init__(Input((1, 2, 3), (0.5,), (0.5,)), dim=6)
        self.linear = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x.flatten(1))
        return out


def test_the_example_collapses_and_says_so() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    names: dict[str, Any] = {"__name__": "attract"}
    exec(compile(code, str(PAGE), "exec"), names)
    torch.manual_seed(0)
    method = names["Attract"](Flat(), dim=8)
    assert method.config == {"kind": "attract", "dim": 8}
    optimizer = torch.optim.SGD(method.parameters(), lr=0.2, momentum=0.9)
    signals = []
    for step in range(60):
        x = torch.randn(32, 1, 2, 3, generator=torch.Generator().manual_seed(step))
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1000 + step))
        found = method(Views((x, x + noise), ("global", "global"), Draws(torch.arange(32), step)))
        optimizer.zero_grad()
        found.loss.backward()
        optimizer.step()
        signals.append(found.logs["feature_std"].item())
    assert signals[0] > 0.5
    assert signals[-1] < 0.1
