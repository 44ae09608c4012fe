"""Pages of a recipe at several widths: the coordinate check, and the transfer of learning rates."""

import base64
import io
import math
from pathlib import Path
from typing import Any

from mezzotint._version import __version__
from mezzotint.optim.mup.coord_check import plot_coord_data, slopes
from mezzotint.report.render import template, write_page
from mezzotint.runs.widths import PARAMETRIZATIONS, CoordinateCheck, RateTransfer

_NAMES = {"mup": "muP", "standard": "standard parametrization"}
_STYLE = """
:root { color-scheme: light dark;
  --ink: #1c1a18; --paper: #faf8f5; --rule: #d9d3ca; }
@media (prefers-color-scheme: dark) { :root { --ink: #ece7e0; --paper: #191714; --rule: #453f37; } }
body { font: 16px/1.5 Georgia, serif; color: var(--ink); background: var(--paper); }
body { max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-weight: 400; } h2 { font-weight: 400; font-size: 1.2rem; margin: 2rem 0 .3rem; }
section { overflow-x: auto; } img { max-width: 100%; background: #fff; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { text-align: left; white-space: nowrap; font-weight: 400; }
th, td { padding: .2rem .8rem .2rem 0; border-bottom: 1px solid var(--rule); }
.foot { opacity: .7; font-size: .85rem; }
"""


def write_coordinate_check(check: CoordinateCheck, out: Path) -> Path:
    """Write the page of a coordinate check; it is a single file without scripts."""
    pictures = []
    for name in PARAMETRIZATIONS:
        rows = [r for r in check.rows[name] if "l1" in r and ":cosine" not in r["module"]]
        pictures.append(
            {
                "title": f"Mean absolute output by {check.axis}, {_NAMES[name]}",
                "note": "One line per module, one panel per step. Flat lines are right.",
                "source": _png(plot_coord_data(rows, legend=None, x=check.axis)),
            }
        )
    tables = [_slope_table(check), _cosine_table(check), _norm_table(check)]
    return _write("Coordinate check", check.verdict(), pictures, tables, out)


def _slope_table(check: CoordinateCheck) -> dict[str, Any]:
    kinds = [(name, y) for name in PARAMETRIZATIONS for y in ("l1", "change")]
    found = {kind: check.slopes(*kind) for kind in kinds}
    last = max(step for _, step in found["mup", "l1"])
    modules = list(dict.fromkeys(module for module, _ in found["mup", "l1"]))
    return {
        "title": f"Slopes of log2 output against log2 {check.axis} at step {last}",
        "heads": ["module", "muP", "muP, change", "standard", "standard, change"],
        "rows": [
            [m or "(method)", *(_slope(found[k].get((m, last))) for k in kinds)] for m in modules
        ],
    }


def _cosine_table(check: CoordinateCheck) -> dict[str, Any]:
    cells: dict[str, list[str]] = {}
    for name in PARAMETRIZATIONS:
        rows = [row for row in check.rows[name] if ":cosine" in row["module"]]
        for y in ("l1", "change"):
            for (module, step), value in slopes(
                (r for r in rows if y in r), y, x=check.axis
            ).items():
                cells.setdefault(f"{module}, step {step}", []).append(_slope(value))
    return {
        "title": "Slopes of cosine matrices",
        "heads": ["module", "muP", "muP, change", "standard", "standard, change"],
        "rows": [[key, *values] for key, values in cells.items()],
    }


def _norm_table(check: CoordinateCheck) -> dict[str, Any]:
    found: dict[str, list[str]] = {}
    for name in PARAMETRIZATIONS:
        for y in ("weight", "update"):
            rows = (row for row in check.rows[name] if y in row)
            for (module, _), value in slopes(rows, y, x=check.axis).items():
                found.setdefault(module, []).append(_slope(value))
    return {
        "title": "Slopes of spectral norms of weights and of their updates",
        "heads": ["weight", "muP", "muP, update", "standard", "standard, update"],
        "rows": [[key, *values] for key, values in found.items()],
    }


def write_rate_transfer(transfer: RateTransfer, out: Path) -> Path:
    """Write the page of a grid of learning rates and widths; a single file without scripts."""
    pictures = [
        {
            "title": "Loss by learning rate",
            "note": "One line per width. In muP the minima stand above each other.",
            "source": _png(_loss_figure(transfer)),
        },
        {
            "title": "Training curves by width, each at the best rate of the narrowest",
            "note": "Means over a twentieth of the steps. Wider is always better where muP is "
            f"right. {wider(transfer)}",
            "source": _png(_curve_figure(transfer)),
        },
    ]
    rows = [
        [f"width {width}", *(f"{transfer.best(name, width):g}" for name in PARAMETRIZATIONS)]
        for width in transfer.widths
    ]
    rows.append(["drift, in factors of 2", *(f"{transfer.drift(n):.1f}" for n in PARAMETRIZATIONS)])
    best = {"title": "Best rates", "heads": ["", "muP", "standard"], "rows": rows}
    losses = {
        "title": "Loss over the last tenth of training, mean over seeds, by rate",
        "heads": ["", *(f"{rate:.4g}" for rate in transfer.rates)],
        "rows": [
            [f"{_NAMES[name]}, width {width}", *map(_loss, transfer.losses(name, width))]
            for name in PARAMETRIZATIONS
            for width in transfer.widths
        ],
    }
    title = "Learning rates across widths"
    return _write(title, proposal(transfer), pictures, [best, losses], out)


def proposal(transfer: RateTransfer) -> str:
    """Say which rate to use at the widest width, and what tuning there would have cost."""
    rate = transfer.best("mup", transfer.widths[0])
    if edge := transfer.at_edge():
        side = "smallest" if transfer.best("mup", edge[0]) == min(transfer.rates) else "largest"
        return (
            f"The best rate of width {edge[0]} in muP is the {side} of the grid, and a better one "
            "may lie beyond it. Extend --rates and run again; finished cells are reused."
        )
    return (
        f"Use optimizer.lr={rate:g} with mup.base_width={transfer.widths[0]} at width "
        f"{transfer.widths[-1]}. A step there costs about {transfer.saved():.1f} times one at "
        f"width {transfer.widths[0]}, and so would tuning. Between widths the best rate "
        f"{_moved(transfer.drift('mup'))} in muP, and {_moved(transfer.drift('standard'))} without."
    )


def _moved(drift: float) -> str:
    return f"moved by a factor of {2**drift:g}" if drift else "stayed"


def wider(transfer: RateTransfer) -> str:
    """Say whether wider was better in muP all along, at the best rate of the narrowest."""
    worse = transfer.worse_when_wider()
    if not worse:
        return "Wider was better in every tenth of training in muP."
    found = ", ".join(f"width {width} in tenth {tenth + 1}" for width, tenth in worse)
    return f"Wider was worse in muP at: {found}. More seeds tell whether that is noise."


def _loss_figure(transfer: RateTransfer) -> Any:
    plot, panels = _panels("learning rate")
    for name, axes in zip(PARAMETRIZATIONS, panels, strict=True):
        for width, color in _colors(transfer):
            losses = [v if math.isfinite(v) else math.nan for v in transfer.losses(name, width)]
            axes.plot(transfer.rates, losses, marker="o", color=color, label=f"width {width}")
        axes.set_xscale("log", base=2)
        axes.legend(fontsize="small")
    return plot


def _curve_figure(transfer: RateTransfer) -> Any:
    """Means of the curves over a twentieth of them, which noise of single batches would hide."""
    plot, panels = _panels("logged step")
    rate = transfer.best("mup", transfer.widths[0])
    for name, axes in zip(PARAMETRIZATIONS, panels, strict=True):
        for width, color in _colors(transfer):
            curve = transfer.curve(name, width, rate)
            window = max(1, len(curve) // 20)
            starts = range(0, len(curve) - window + 1, window)
            means = [sum(curve[i : i + window]) / window for i in starts]
            steps = [start + window / 2 for start in starts]
            axes.plot(steps, means, color=color, label=f"width {width}")
        axes.legend(fontsize="small")
    return plot


def _panels(xlabel: str) -> tuple[Any, list[Any]]:
    """A panel for each parametrization, on one scale of losses."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    panels = list(figure.subplots(1, 2, sharey=True))
    for name, axes in zip(PARAMETRIZATIONS, panels, strict=True):
        axes.set(title=_NAMES[name], xlabel=xlabel)
    panels[0].set_ylabel("training loss")
    return figure, panels


def _colors(transfer: RateTransfer) -> list[tuple[int, Any]]:
    """Widths with colors from light to dark."""
    from matplotlib import colormaps

    last = max(1, len(transfer.widths) - 1)
    return [
        (w, colormaps["viridis_r"](0.2 + 0.8 * i / last)) for i, w in enumerate(transfer.widths)
    ]


def _loss(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "diverged"


def _slope(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}"


def _png(figure: Any) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _write(
    title: str,
    verdict: str,
    pictures: list[dict[str, Any]],
    tables: list[dict[str, Any]],
    out: Path,
) -> Path:
    page = template("widths.html").render(
        title=title,
        verdict=verdict,
        pictures=pictures,
        tables=[table for table in tables if table["rows"]],
        style=_STYLE,
        version=__version__,
    )
    return write_page(out, page)
