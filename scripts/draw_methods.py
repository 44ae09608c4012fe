"""Draw the diagrams of docs/methods: what flows from a sample to the loss, one SVG a method.

    python scripts/draw_methods.py

A box is data, a trained part, a momentum copy, a frozen part, or the loss. A bar across an arrow
stops the gradient. The files are the same on every machine, and a test compares them.
"""

import functools
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

OUT = Path(__file__).parent.parent / "docs" / "images" / "methods"
_STYLES = {
    "data": ("#ffffff", "#607d8b", ""),
    "trained": ("#e3f2fd", "#1565c0", ""),
    "copy": ("#f3e5f5", "#7b1fa2", ' stroke-dasharray="5 3"'),
    "frozen": ("#eceff1", "#455a64", ""),
    "loss": ("#fff3e0", "#e65100", ""),
}
_WIDTH, _HEIGHT, _BOX, _TALL = 132, 84, 104, 44


@dataclass(frozen=True)
class Box:
    """A box at a column and a row of the grid; its text may have two lines."""

    column: float
    row: float
    text: str
    style: str = "trained"

    @property
    def center(self) -> tuple[float, float]:
        """Pixels of its center."""
        return 64 + self.column * _WIDTH, 36 + self.row * _HEIGHT


@dataclass
class Diagram:
    """Boxes, arrows between them, and notes.

    Attributes:
        boxes: by a name for the arrows.
        arrows: from, to, and `stop` for an arrow without gradient, `average` for a dashed one.
    """

    boxes: dict[str, Box]
    arrows: list[tuple[str, str, str]] = field(default_factory=list)

    def svg(self, title: str) -> str:
        """The drawing as text."""
        width = max(box.center[0] for box in self.boxes.values()) + 64
        height = max(box.center[1] for box in self.boxes.values()) + 36
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
            f'width="{width:g}" font-family="sans-serif" font-size="12.5">',
            f"<title>{escape(title)}</title>",
            '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            'markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z" fill="#37474f"/></marker>'
            "</defs>",
        ]
        parts += [self._arrow(*arrow) for arrow in self.arrows]
        parts += [_drawn(box) for box in self.boxes.values()]
        return "\n".join([*parts, "</svg>"]) + "\n"

    def _arrow(self, start: str, end: str, kind: str) -> str:
        (x1, y1), (x2, y2) = self.boxes[start].center, self.boxes[end].center
        if abs(x2 - x1) < 1:  # along a column
            side = 1 if y2 > y1 else -1
            y1, y2 = y1 + side * _TALL / 2, y2 - side * _TALL / 2
        else:
            side = 1 if x2 > x1 else -1
            x1, x2 = x1 + side * _BOX / 2, x2 - side * _BOX / 2
        dash = ' stroke-dasharray="4 3"' if kind == "average" else ""
        text = (
            f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="#37474f" '
            f'stroke-width="1.4" marker-end="url(#a)"{dash}/>'
        )
        if kind == "stop":
            x, y = (x1 + x2) / 2 - 3, (y1 + y2) / 2
            bars = (f"M{x + d:g} {y - 8:g}v16" for d in (0, 4))
            text += f'<path d="{"".join(bars)}" stroke="#c62828" stroke-width="1.8"/>'
        return text


def _drawn(box: Box) -> str:
    fill, line, dash = _STYLES[box.style]
    x, y = box.center
    radius = 22 if box.style == "loss" else 6
    lines = box.text.split("\n")
    text = "".join(
        f'<text x="{x:g}" y="{y + 4.5 + 15 * (i - (len(lines) - 1) / 2):g}" '
        f'text-anchor="middle" fill="#263238">{escape(part)}</text>'
        for i, part in enumerate(lines)
    )
    return (
        f'<rect x="{x - _BOX / 2:g}" y="{y - _TALL / 2:g}" width="{_BOX}" height="{_TALL}" '
        f'rx="{radius}" fill="{fill}" stroke="{line}" stroke-width="1.5"{dash}/>{text}'
    )


def two_branches(
    upper: list[str],
    lower: list[str],
    loss: str,
    *,
    lower_style: str = "trained",
    stop: bool = False,
    average: bool = False,
) -> Diagram:
    """Two views through two rows of parts to one loss.

    Args:
        upper: parts of the trained branch.
        lower: parts of the other one.
        loss: text of the loss.
        lower_style: style of the lower parts.
        stop: stop the gradient from the loss into the lower row.
        average: the lower row is a moving average of the upper one.
    """
    boxes = {"x": Box(0, 0.5, "sample", "data")}
    arrows = []
    for row, parts in enumerate((upper, lower)):
        before = f"v{row}"
        boxes[before] = Box(1, row, f"view {row + 1}", "data")
        arrows.append(("x", before, ""))
        for column, part in enumerate(parts, 2):
            name = f"{row}.{column}"
            boxes[name] = Box(column, row, part, lower_style if row else "trained")
            arrows.append((before, name, ""))
            before = name
        boxes["loss"] = Box(2 + max(len(upper), len(lower)), 0.5, loss, "loss")
        arrows.append((before, "loss", "stop" if row and stop else ""))
    if average:
        arrows += [(f"0.{c}", f"1.{c}", "average") for c in range(2, 2 + len(lower))]
    return Diagram(boxes, arrows)


def chain(parts: list[tuple[str, str]], *, below: dict[int, tuple[str, str]]) -> Diagram:
    """Parts in a row, and targets that join the last one from below.

    Args:
        parts: text and style of each.
        below: text and style of boxes under some columns, joined from left to right.
    """
    boxes = {str(c): Box(c, 0, text, style) for c, (text, style) in enumerate(parts)}
    arrows = [(str(c), str(c + 1), "") for c in range(len(parts) - 1)]
    before = "0"
    for column, (text, style) in below.items():
        name = f"b{column}"
        boxes[name] = Box(column, 1, text, style)
        arrows.append((before, name, ""))
        before = name
    if below:
        arrows.append((before, str(len(parts) - 1), "stop"))
    return Diagram(boxes, arrows)


def diagrams() -> dict[str, Diagram]:
    """Every diagram by the name of its file."""
    f, g, q = "encoder", "projector", "predictor"
    ema = functools.partial(two_branches, lower_style="copy", stop=True, average=True)
    queue = ema([f, g], [f, g], "InfoNCE")
    queue.boxes["queue"] = Box(4, 1.5, "queue of\nearlier keys", "data")
    queue.arrows.append(("queue", "loss", "stop"))
    low_boxes = {
        "x": Box(0, 0.5, "sample", "data"),
        "v0": Box(1, 0, "views", "data"),
        "float": Box(2, 0, "encoder\nfp32"),
        "low": Box(2, 1, "same weights\nW2–8 A4–8"),
        "t": Box(3, 0, "fp32 targets", "data"),
        "p": Box(3, 1, "predictions\nat low bits", "data"),
        "loss": Box(4, 0.5, "base's loss,\nfp32 + low", "loss"),
    }
    low_arrows = [
        ("x", "v0", ""), ("v0", "float", ""), ("v0", "low", ""), ("float", "t", ""),
        ("low", "p", ""), ("t", "loss", "stop"), ("p", "loss", ""), ("float", "low", "average"),
    ]  # fmt: skip
    student = Diagram(
        {
            "v": Box(0, 0.5, "view", "data"),
            "s": Box(1, 0, "student"),
            "g": Box(2, 0, g),
            "t": Box(1, 1, "frozen\nteacher", "frozen"),
            "loss": Box(3, 0.5, "− cosine", "loss"),
        },
        [("v", "s", ""), ("v", "t", ""), ("s", "g", ""), ("g", "loss", ""), ("t", "loss", "stop")],
    )
    return {
        "simclr": two_branches([f, g], [f, g], "NT-Xent"),
        "simsiam": two_branches([f, g, q], [f, g], "− cosine", stop=True),
        "byol": ema([f, g, q], [f, g], "2 − 2 cosine"),
        "moco": queue,
        "mocov3": ema([f, g, q], [f, g], "InfoNCE in\nthe batch"),
        "dino": ema([f, "prototypes"], [f, "prototypes,\ncentered"], "cross-\nentropy"),
        "lejepa": two_branches([f, g], [f, g], "prediction\n+ SIGReg"),
        "ssql": Diagram(low_boxes, low_arrows),
        "mae": chain(
            [("patches", "data"), ("visible 25 %", "data"), (f, "trained"),
             ("decoder", "trained"), ("squared\nerror", "loss")],
            below={1: ("masked 75 %", "data"), 3: ("their values", "data")},
        ),
        "bridle": chain(
            [("patches", "data"), ("visible 20 %", "data"), (f, "trained"),
             ("decoder", "trained"), ("cross-\nentropy", "loss")],
            below={1: ("tokenizer", "frozen"), 2: ("codebook\nRQ or VQ", "frozen"),
                   3: ("codes of\nmasked patches", "data")},
        ),
        "randomized_quantization": chain(
            [("values of\na channel", "data"), ("random\nbin edges", "trained"),
             ("one value\nfor each bin", "trained"), ("view", "data")],
            below={},
        ),
        "distillation": student,
    }  # fmt: skip


def main() -> None:
    """Write every diagram."""
    OUT.mkdir(parents=True, exist_ok=True)
    for name, diagram in diagrams().items():
        (OUT / f"{name}.svg").write_text(diagram.svg(name), encoding="utf-8")


if __name__ == "__main__":
    main()
