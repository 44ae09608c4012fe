"""The page of a study: positions are to scale, and bold differences exclude zero."""

import math
import re
from pathlib import Path

import pytest

from mezzotint.report.study import write_study
from mezzotint.runs.compare import Cell, ComparisonTable


def page(tmp_path: Path, *cells: Cell | None) -> str:
    arms = {f"arm{i}": [cell] for i, cell in enumerate(cells)}
    table = ComparisonTable("A <study>", "arm0", ["linear top1"], arms, ["rank all/spread"], {})
    return write_study(table, tmp_path / "study.html").read_text(encoding="utf-8")


BASE = Cell({0: 0.2, 1: 0.4}, 0.3, 0.1, 0.5)
BETTER = Cell({0: 0.6, 1: 0.8}, 0.7, 0.6, 0.9, 0.4, 0.3, 0.5)
UNSURE = Cell({0: 0.3, 1: 0.5}, 0.4, 0.2, 0.6, 0.1, -0.1, 0.3)


def test_positions_are_to_scale(tmp_path: Path) -> None:
    html = page(tmp_path, BASE, BETTER)
    assert "0.100 … 0.900" in html, "the axis covers all intervals"
    means = [float(x) for x in re.findall(r'cx="([\d.]+)" cy="8" r="4"', html)]
    # 240 units with margins of 8: 0.1 is at 8 and 0.9 at 232.
    assert means == pytest.approx([8 + 224 * 0.2 / 0.8, 8 + 224 * 0.6 / 0.8], abs=0.05)
    bars = [
        tuple(map(float, x)) for x in re.findall(r'x1="([\d.]+)" x2="([\d.]+)".*"line bar"', html)
    ]
    assert bars[0] == pytest.approx((8.0, 8 + 224 * 0.4 / 0.8), abs=0.05)
    assert html.count('class="seed"') == 4


def test_differences_whose_interval_excludes_zero_are_bold(tmp_path: Path) -> None:
    html = page(tmp_path, BASE, BETTER, UNSURE)
    assert re.findall(r'class="gain significant">([^<]+)', html) == ["+0.400"]
    assert "<td>+0.100</td><td>−0.100 – +0.300</td>" in html
    assert html.count('class="reference"') == 1


def test_arms_without_a_value_and_single_seeds(tmp_path: Path) -> None:
    single = Cell({0: 0.5}, 0.5, math.nan, math.nan)
    html = page(tmp_path, single, None)
    assert "arm1" not in html and 'class="line bar"' not in html and "<td>–</td>" in html


def test_the_page_escapes_and_names_what_is_not_shown(tmp_path: Path) -> None:
    html = page(tmp_path, BASE)
    assert "<title>A &lt;study&gt; · Mezzotint</title>" in html and "<study>" not in html
    assert "script-src 'sha256-" in html and "Made by Mezzotint" in html, "the report's page"
    assert "Not shown, because the protocol differs between runs: rank all/spread." in html
