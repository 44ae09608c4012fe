"""How many bits weights and activations have."""

import re
from dataclasses import dataclass

_SETTING = re.compile(r"(\d{1,2})/(\d{1,2})")


@dataclass(frozen=True)
class Setting:
    """Bits of the weights and of the activations; 32 is float."""

    weight: int
    activation: int

    @classmethod
    def parse(cls, text: str, option: str = "evaluate.bits") -> "Setting":
        """Read `weights/activations`, such as `2/8`.

        Args:
            text: what was given.
            option: where, for the message.

        Raises:
            ValueError: for anything else, or a width that is not 1 to 8 or 32.
        """
        found = _SETTING.fullmatch(text)
        sides = [int(side) for side in found.groups()] if found else []
        if not sides or any(side != 32 and not 1 <= side <= 8 for side in sides):
            raise ValueError(
                f"{option}: got {text!r}; allowed is weights/activations, each 1 to 8, or 32 for float: "
                "write 8/8, 2/4 or 32/32"
            )
        return cls(*sides)

    @property
    def is_float(self) -> bool:
        """Whether nothing is quantized."""
        return self == Setting(32, 32)

    def __str__(self) -> str:
        return f"{self.weight}/{self.activation}"
