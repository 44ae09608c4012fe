"""Take the pictures of `docs/report.md` from the report of a finished run, usually the demo's.

    make demo
    python scripts/make_report_pictures.py runs/demo [--tutorials runs] [--out docs/images]

Needs Selenium (`pip install selenium`), and Chromium and `chromedriver` on the PATH; none of them
is needed for anything else in the package. The gallery and the maps over the epochs are made here,
in some seconds.
"""

import argparse
import base64
import contextlib
import io
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

TARGET = Path(__file__).parent.parent / "docs" / "images"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
         "--disable-dev-shm-usage", "--disable-background-networking")  # fmt: skip
EPOCHS = ["run.epochs=6", "run.batch_size=256", "run.log.map_epochs=2", "method.dim=32",
          "data.name=digits", "method.hidden_dim=64",
          "encoder={kind: resnet8, stem: small, width: 8}"]  # fmt: skip


@dataclass(frozen=True)
class Shot:
    """A part of a page.

    Attributes:
        name: file to write.
        first: CSS selector of the first element; empty for the top of the page.
        last: selector of the last element, where it is another one.
        width: width of the window in CSS pixels.
        height: largest height in CSS pixels; 0 for all of the elements.
        dark: dark mode.
        scale: pixels of the picture per CSS pixel.
    """

    name: str
    first: str = ""
    last: str = ""
    width: int = 1120
    height: int = 0
    dark: bool = False
    scale: float = 1.0


REPORT = (
    Shot("report.png", height=1010),
    Shot("report_dark.png", height=700, dark=True),
    Shot("report_phone.png", width=390, height=844, scale=1.5),
    Shot("report_map.png", first="#map"),
    Shot("report_neighbors.png", first="#neighbors", height=760),
    Shot("report_low_bits.png", first="#bits", last="#exports"),
)
GALLERY = (Shot("report_gallery.png", height=620),)
TUTORIALS = {
    "photos": Shot("start_photos.webp", height=1050),
    "continued": Shot("start_continue.webp", height=600),
}
MAPS = (Shot("report_epochs.webp", first="#maps"),)


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """Start a headless Chromium.

    Raises:
        SystemExit: when Selenium, Chromium or its driver is missing.
    """
    binary = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    try:
        from selenium import webdriver
    except ImportError:
        binary = None
    if binary is None or driver is None:
        raise SystemExit(
            "The pictures need Selenium, Chromium and chromedriver, and one of them is missing. "
            "Run `pip install selenium` and `apt-get install chromium chromium-driver`."
        )
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    with tempfile.TemporaryDirectory() as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        try:
            yield started
        finally:
            started.quit()


def take(driver: Any, page: Path, shots: Sequence[Shot], out: Path) -> list[Path]:
    """Write the pictures of a page.

    Returns:
        The files written; a shot of a section that the page lacks is left out.
    """
    written = []
    for shot in shots:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if shot.dark else "light"}
        size = {"width": shot.width, "height": 900, "deviceScaleFactor": shot.scale}
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", size | {"mobile": shot.width < 500}
        )
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        driver.get(page.resolve().as_uri())
        area = _area(driver, shot)
        if area is None:
            continue
        shown = driver.execute_cdp_cmd(
            "Page.captureScreenshot",
            {"format": "png", "captureBeyondViewport": True, "clip": {**area, "scale": 1}},
        )
        image = Image.open(io.BytesIO(base64.b64decode(shown["data"]))).convert("RGB")
        if shot.name.endswith(".webp"):
            image.save(out / shot.name, quality=80)
        else:
            # 256 colors: a third of the size, and no visible difference.
            image.quantize(256).save(out / shot.name, optimize=True)
        written.append(out / shot.name)
    return written


def _area(driver: Any, shot: Shot) -> dict[str, float] | None:
    """Return the rectangle of a shot in the page once its pictures are decoded."""
    found = driver.execute_async_script(
        """
        const [first, last, done] = arguments;
        Promise.all([...document.images].map((i) => i.decode().catch(() => {}))).then(() => {
          requestAnimationFrame(() => {
            const whole = { top: 0, bottom: document.documentElement.scrollHeight };
            const box = (name) => document.querySelector(name)?.getBoundingClientRect();
            const [a, b] = first ? [box(first), box(last || first) ?? box(first)] : [whole, whole];
            done(a ? [a.top + scrollY, b.bottom + scrollY] : null);
          });
        });
        """,
        shot.first,
        shot.last,
    )
    if found is None:
        return None
    top, bottom = found
    height = min(bottom - top, shot.height or bottom - top)
    return {"x": 0, "y": top, "width": shot.width, "height": height}


def main(arguments: Sequence[str] | None = None) -> None:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="directory of a finished run with a report.html")
    parser.add_argument("--tutorials", type=Path, help="directory with the tutorials' runs")
    parser.add_argument("--out", type=Path, default=TARGET, help="directory of the pictures")
    options = parser.parse_args(arguments)
    page = options.run / "report.html"
    if not page.is_file():
        raise SystemExit(f"`{page}` does not exist. Run `mezzotint report {options.run}` first.")

    from mezzotint import Recipe, pretrain
    from mezzotint.report.gallery import write_gallery
    from mezzotint.report.page import write_report

    with browser() as driver, tempfile.TemporaryDirectory() as temporary:
        written = take(driver, page, REPORT, options.out)
        for name, shot in TUTORIALS.items() if options.tutorials else ():
            written += take(driver, options.tutorials / name / "report.html", [shot], options.out)
        recipe = Recipe.load(options.run)
        gallery = Path(temporary) / "gallery.html"
        write_gallery(recipe.data, recipe.views, recipe.encoder.input, gallery, samples=12, seed=0)
        written += take(driver, gallery, GALLERY, options.out)
        run = pretrain(
            Recipe.load("image/emoji_simclr", EPOCHS), Path(temporary) / "maps", progress="quiet"
        )
        written += take(driver, write_report(run), MAPS, options.out)
    for path in written:
        print(path)


if __name__ == "__main__":
    main()
