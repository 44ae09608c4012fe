"""The page of results: a plot and a sentence for each measurement, from `benchmarks/results/`.

    python scripts/docs_results.py        # writes the plots of other pages to docs/images/results

Numbers are read from the tables of the files, so the page says what they say. Tables, commands,
commits and hardware stay there. Plots of other pages are files that a test compares.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "benchmarks" / "results"
PLOTS = Path(__file__).parent.parent / "docs" / "images" / "results"
_COLORS = ("#1565c0", "#e65100", "#78909c", "#2e7d32")
_VALUE = re.compile(
    r"([+−-]?[\d.,]+)(?: ± ([\d.]+))?(?: \(([+−-]?[\d.,]+) (?:–|to) ([+−-]?[\d.,]+)\))?"
)

Row = Mapping[str, str]


@dataclass(frozen=True)
class Value:
    """A number of a table, with its interval or its extremes where it has any."""

    mean: float
    low: float
    high: float


def number(cell: str) -> Value:
    """Read a cell: `0.607`, `0.61 ± 0.02`, `1,219 (900 to 1,400)`, `**+0.018 ± 0.015**`, `2.9×`."""
    found = _VALUE.search(cell.replace("*", "").replace("×", ""))
    if found is None:
        raise ValueError(f"The cell {cell!r} has no number.")
    mean, half, low, high = (
        float(part.replace(",", "").replace("−", "-")) if part else None for part in found.groups()
    )
    assert mean is not None
    if half is not None:
        return Value(mean, mean - half, mean + half)
    return Value(mean, mean if low is None else low, mean if high is None else high)


def tables(name: str, section: str = "") -> list[list[Row]]:
    """The tables of a file, or of one of its sections, each a list of rows by column.

    Columns without a title, or with one that was there before, are named by their number.
    """
    text = (FOLDER / name).read_text(encoding="utf-8")
    if section:
        text = next(p for p in re.split(r"^##+ ", text, flags=re.M) if p.startswith(section))
    found: list[list[Row]] = []
    for block in re.findall(r"(?:^\|.*\|$\n?)+", text, re.M):
        lines = [[c.strip() for c in line[1:-1].split("|")] for line in block.strip().splitlines()]
        titles: list[str] = []
        for column, title in enumerate(lines[0]):
            titles.append(str(column) if not title or title in titles else title)
        found.append([dict(zip(titles, line, strict=False)) for line in lines[2:]])
    return found


def bars(values: Mapping[str, Value], *, unit: str = "", zero: float = 0.0) -> str:
    """Draw horizontal bars by label from `zero`, with whiskers where a value has an interval."""
    left, width, step = 18 + round(6.6 * max(map(len, values))), 380, 26
    low = min(zero, *(v.low for v in values.values()))
    high = max(zero, *(v.high for v in values.values()))
    scale = width / ((high - low) or 1.0)

    def x(value: float) -> float:
        return left + (value - low) * scale

    parts = []
    for i, (label, value) in enumerate(values.items()):
        y = 8 + i * step
        start, end = sorted((x(zero), x(value.mean)))
        parts.append(
            f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{escape(label)}</text>'
            f'<rect x="{start:.1f}" y="{y + 2}" width="{max(end - start, 1):.1f}" height="16" '
            f'fill="{_COLORS[0 if i == 0 else 2]}" opacity="0.85"/>'
            f'<text x="{x(max(value.high, value.mean, zero)) + 6:.1f}" y="{y + 14}">'
            f"{_shown(value.mean)}{escape(unit)}</text>"
        )
        if value.high > value.low:
            ends = f"M{x(value.low):.1f} {y + 10}H{x(value.high):.1f}"
            parts.append(f'<path d="{ends}" stroke="#263238" stroke-width="1.6"/>')
    return _svg("".join(parts), left + width + 90, 12 + len(values) * step)


def lines(series: Mapping[str, Sequence[Value]], labels: Sequence[str]) -> str:
    """Draw a line for each series over named positions, with whiskers."""
    left, top, width, height = 46, 12, 430, 210
    values = [v for line in series.values() for v in line]
    low, high = min(v.low for v in values), max(v.high for v in values)
    gap = width / max(1, len(labels) - 1)

    def y(value: float) -> float:
        return top + height * (high - value) / ((high - low) or 1.0)

    parts = [
        f'<text x="{left - 6}" y="{y(v) + 4:.1f}" text-anchor="end">{_shown(v)}</text>'
        f'<path d="M{left} {y(v):.1f}h{width}" stroke="#cfd8dc"/>'
        for v in (low, (low + high) / 2, high)
    ]
    parts += [
        f'<text x="{left + i * gap:.1f}" y="{top + height + 18}" text-anchor="middle">'
        f"{escape(label)}</text>"
        for i, label in enumerate(labels)
    ]
    for color, (name, line) in zip(_COLORS, series.items(), strict=False):
        points = [(left + i * gap, v) for i, v in enumerate(line)]
        way = " ".join(f"{x:.1f},{y(v.mean):.1f}" for x, v in points)
        whiskers = "".join(f"M{x:.1f} {y(v.low):.1f}V{y(v.high):.1f}" for x, v in points)
        index = list(series).index(name)
        parts.append(
            f'<polyline points="{way}" fill="none" stroke="{color}" stroke-width="2"/>'
            f'<path d="{whiskers}" stroke="{color}" opacity="0.5"/>'
            f'<text x="{left + width + 14}" y="{top + 14 + 20 * index}" fill="{color}">'
            f"{escape(name)}</text>"
        )
    return _svg("".join(parts), left + width + 190, top + height + 30)


def _svg(content: str, width: int, height: int) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'font-family="sans-serif" font-size="12" fill="#263238">{content}</svg>\n'
    )


def _shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


@dataclass(frozen=True)
class Result:
    """A part of the page.

    Attributes:
        title: heading.
        file: the file that has the tables.
        draw: returns the plot and the sentence.
    """

    title: str
    file: str
    draw: Callable[[], tuple[str, str]]

    @property
    def plot(self) -> str:
        """Name of the plot's file."""
        return re.sub(r"\W+", "_", self.title.lower()).strip("_") + ".svg"


def _column(rows: Sequence[Row], label: str, column: str) -> dict[str, Value]:
    return {row[label].replace("*", "").replace("`", ""): number(row[column]) for row in rows}


def _demo() -> tuple[str, str]:
    (row,) = (
        r for r in tables("demo.md", "The command of the README")[0]
        if r["probe"] == "linear" and r["metric"] == "category/across-styles/top1"
    )  # fmt: skip
    values = {name: number(row[name]) for name in ("encoder", "hand-made", "untrained", "raw")}
    shown = {name: value.mean for name, value in values.items()}
    return bars(values), (
        "A linear probe on the demo's encoder finds the category of an emoji in a style it was not "
        "fitted on: {encoder:.3f} of them, where hand-made features reach {hand-made:.3f}, the "
        "untrained encoder {untrained:.3f} and pixels {raw:.3f}. By kNN, hand-made features are "
        "level or ahead; the table has every probe."
    ).format(**shown)


def _quality() -> tuple[str, str]:
    rows = [r for r in tables("quality.md", "Against lightly")[0] if r["probe"] == "knn"]
    values = _column(rows, "set", "ours − lightly")
    mean = values.pop("mean over sets")
    return bars({"mean over sets": mean, **values}), (
        f"At equal processor time (15 s a run), the recipe for a folder of images is "
        f"{mean.mean:+.3f} ({mean.low:+.3f} – {mean.high:+.3f}) ahead of plain SimCLR of lightly "
        f"by kNN, over {len(values)} sets. So short a run says nothing about long ones."
    )


def _speed() -> tuple[str, str]:
    rows = tables("pretraining.md")[0]
    values = _column(rows, "side", "median samples/s")
    ratio = number(rows[0]["against lightly"]).mean
    return bars(values, unit=" samples/s"), (
        f"On two cores, a step with batched views trains {ratio:.1f} times as many samples a "
        "second as lightly with a DataLoader."
    )


def _views() -> tuple[str, str]:
    rows = tables("views.md")[0]
    values = {
        row["0"].replace("`", "") + f", {row['images']}": number(row["32 px"]) for row in rows
    }
    first, *rest = values.values()
    return bars(values, unit=" pairs/s"), (
        f"SimCLR's two views of images of 32 pixels on one core: {first.mean:,.0f} pairs a second, "
        f"{first.mean / max(v.mean for v in rest):.1f} times the next."
    )


def _int8() -> tuple[str, str]:
    rows = [r for r in tables("int8.md")[0] if r["weight bits"] == "8"]
    values = {f"{r['network']}, batch {r['batch']}": number(r["speed-up"]) for r in rows}
    files = {number(r["file"]).mean for r in rows}
    return bars(values, unit="×"), (
        f"int8 ONNX files run {min(v.mean for v in values.values()):.1f} to "
        f"{max(v.mean for v in values.values()):.1f} times as fast as fp32 ones on a CPU with "
        f"VNNI, and take {max(files):.2f} of their size."
    )


def _epochs(arm: str) -> str:
    return f"{arm.replace('ssql_demo', 'SSQL, ').replace('demo', 'SimCLR, ')} epochs"


def _bits() -> tuple[str, str]:
    rows = tables("ssql_demo.md", "linear, across styles")[0]
    labels = [name for name in rows[0] if name != "weights/activations"]
    series = {
        _epochs(row["weights/activations"]): [number(row[name]) for name in labels]
        for row in rows
        if "−" not in row["weights/activations"]
    }
    return lines(series, labels), (
        "A linear probe at each bit config, three seeds: SSQL loses less of its accuracy at "
        "two-bit weights, and starts lower for equal forward passes. At four bits, use the base "
        "and train it longer."
    )


def _siamese() -> tuple[str, str]:
    values = _column(tables("siamese_factors.md")[0], "arm", "kNN, category across styles")
    best = max((v for k, v in values.items() if k not in ("pixels",)), key=lambda v: v.mean)
    order = dict(sorted(values.items(), key=lambda item: -item[1].mean))
    return bars(order), (
        "Siamese methods at equal epochs on the embedded emoji: SimCLR is ahead "
        f"({best.mean:.3f}), MoCo's variants are level with each other, BYOL is behind in so few "
        "steps."
    )


def _modalities() -> tuple[str, str]:
    values = {}
    for name in ("points", "series", "table", "images", "audio"):
        row = tables("modalities.md", name)[0][0]
        values[f"{name}: {row['0']}"] = number(row["both − untrained"])
    return bars(values), (
        "Geometric views with randomized quantization, against the untrained encoder (top-1, first "
        "metric of each modality): "
        + ", ".join(f"{k.split(':')[0]} {v.mean:+.3f}" for k, v in values.items())
        + ". Where the whisker crosses zero, three seeds do not tell."
    )


def _masked() -> tuple[str, str]:
    rows = tables("bridle.md", "Emoji")[0]
    values = _column(rows, "arm", "category/across-styles, linear")
    return bars(values), (
        "Masked prediction learns without any augmentation: values (`mae`) and codes (`rq`, `vq`) "
        "are ahead of the untrained encoder, and level with each other. A second round "
        "(`rq_two_rounds`) gains nothing."
    )


def _mup() -> tuple[str, str]:
    text = (FOLDER / "mup.md").read_text(encoding="utf-8")
    rates = [f"2^−{n}" for n in range(10, 4, -1)]
    series: dict[str, list[Value]] = {}
    for kind, width, cells in re.findall(r"^\| (\w+) \| (\d+)[^|]*\| [^|]+\|(.*)\|$", text, re.M):
        found = [c for c in cells.split("|") if "±" not in c and re.search(r"\d", c)]
        if len(found) == len(rates) and kind in ("both", "muP"):
            # The first table has three seeds.
            series.setdefault(f"width {width}", [number(cell) for cell in found])
    return lines(series, rates), (
        "Training loss by learning rate at three widths in muP, mean of three seeds: the best rate "
        "stays within one step of the grid while the width grows fourfold."
    )


def _memory() -> tuple[str, str]:
    rows = tables("gradient_cache.md")[0]
    values = {f"{r['parts']} parts": number(r["peak memory of the step, MiB"]) for r in rows}
    first, last = (list(values.values())[i].mean for i in (0, -1))
    return bars(values, unit=" MiB"), (
        f"A step of SimCLR with 512 samples takes {first:,.0f} MiB at once, and {last:,.0f} MiB in "
        f"{rows[-1]['parts']} parts by the gradient cache, with the same gradient."
    )


def _probe() -> tuple[str, str]:
    rows = [r for r in tables("linear_probe.md")[0] if r["comparison"].startswith("protocol")]
    values = {r["features"].split(",")[0]: number(r["ratio"]) for r in rows}
    low, high = (f(v.mean for v in values.values()) for f in (min, max))
    return bars(values, unit="×"), (
        f"The linear probe is solved to its optimum, with its penalty chosen, {low:.0f} to "
        f"{high:.0f} times as fast as SGD's 100 epochs at ten rates."
    )


RESULTS = (
    Result("The demo", "demo.md", _demo),
    Result("Your own images, against lightly", "quality.md", _quality),
    Result("Accuracy against bits", "ssql_demo.md", _bits),
    Result("int8 on a CPU", "int8.md", _int8),
    Result("Siamese methods", "siamese_factors.md", _siamese),
    Result("Randomized quantization in every modality", "modalities.md", _modalities),
    Result("Masked prediction", "bridle.md", _masked),
    Result("muP", "mup.md", _mup),
    Result("Speed of training", "pretraining.md", _speed),
    Result("Speed of views", "views.md", _views),
    Result("Speed of the linear probe", "linear_probe.md", _probe),
    Result("Memory of large batches", "gradient_cache.md", _memory),
)

_ARMS = {
    "both": "geometry and quantization", "geometry": "geometry", "quantization": "quantization",
    "none": "no augmentation", "untrained": "untrained encoder",
}  # fmt: skip


def _by_views(section: str, task: str, **arms: str) -> str:
    """Bars of a modality's arms, some under other names, by the linear probe on one task."""
    (row,) = (r for r in tables("modalities.md", section)[0] if r["0"] == f"{task}, linear")
    found = {title: number(row[arm]) for arm, title in (_ARMS | arms).items()}
    others = {name.strip("*"): cell for name, cell in row.items() if name.startswith("*") and cell}
    found |= {name: number(cell) for name, cell in others.items()}
    return bars(found)


def _norm_rescale() -> str:
    rows = tables("norm_rescale.md")[1]
    names = {f"{row['pretrained with']}, {row['1']}": row for row in rows}
    kept = {name: number(row["lr 0.01"]) for name, row in names.items() if "lr 16" not in name}
    return bars(kept)


# Plots of other pages than the results, by the name of their file.
OF_PAGES: Mapping[str, Callable[[], str]] = {
    "audio_views": lambda: _by_views(
        "audio", "language/few-shot", both="crop, mixture, quantization", geometry="crop, mixture"
    ),
    "points_views": lambda: _by_views("points", "object/1-percent"),
    "series_views": lambda: _by_views("series", "exercise/held-out-subjects"),
    "norm_rescale": _norm_rescale,
    "siamese_factors": lambda: _siamese()[0],
    "views_speed": lambda: _views()[0],
}

_HEAD = """\
# Results

What was measured, as a plot and a sentence each. Everything ran on two shared CPU cores, on small
embedded data, unless its file says otherwise: these are results in miniature. The link below each
plot has the tables, the command, the commit and the hardware; [what did not
help](negative-results.md) has a page of its own.
"""


def pages() -> dict[str, str]:
    """The page and its plots, by their path on the site."""
    found, parts = {}, [_HEAD]
    for result in RESULTS:
        plot, sentence = result.draw()
        found[f"results/plots/{result.plot}"] = plot
        parts.append(
            f"## {result.title}\n\n{sentence}\n\n![{result.title}](results/plots/{result.plot})\n\n"
            f"[Tables and command](results/{result.file})\n"
        )
    titles = {
        path.name: re.search(r"^# (.*)$", path.read_text(encoding="utf-8"), re.M)
        for path in sorted(FOLDER.glob("*.md"))
    }
    listed = (f"[{m[1] if m else n[:-3]}](results/{n})" for n, m in titles.items())
    parts.append("## All files\n\n" + " · ".join(listed) + "\n")
    return {"results.md": "\n".join(parts)} | found


def main() -> None:
    """Write the plots of other pages."""
    PLOTS.mkdir(parents=True, exist_ok=True)
    for name, draw in OF_PAGES.items():
        (PLOTS / f"{name}.svg").write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
