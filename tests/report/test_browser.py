"""The page in a real browser: it loads nothing, has no errors, and reacts to the pointer."""

import base64
import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mezzotint.augment.audio import RandomFrames
from mezzotint.augment.points import PointRotation
from mezzotint.augment.views import Transformed
from mezzotint.data.audio.embedded import Speech
from mezzotint.data.points.embedded import Furniture
from mezzotint.report.gallery import write_gallery
from mezzotint.report.page import write_report

selenium = pytest.importorskip("selenium.webdriver")

CHROMIUM = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (path := shutil.which(name))
    ),
    None,
)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not CHROMIUM or not DRIVER, reason="no chromium and chromedriver on PATH"
)
MakeRun = Callable[..., Path]
HOSTILE = (
    "<script>window.canary=1</script>",
    '"><img src=x onerror="window.canary=2">',
    "</td></table>",
)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --disable-dev-shm-usage"
).split()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = selenium.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = selenium.Chrome(options=options, service=selenium.ChromeService(DRIVER))
    yield driver
    driver.quit()


def visit(browser: Any, page: Path, *, width: int = 1280, dark: bool = False) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    browser.get_log("browser"), browser.get_log("performance")
    browser.get(page.as_uri())


def script(browser: Any, text: str, *arguments: Any) -> Any:
    return browser.execute_script(text, *arguments)


def background(browser: Any) -> float:
    """Mean brightness of the page's corner, from the pixels that are shown."""
    shot = Image.open(io.BytesIO(base64.b64decode(browser.get_screenshot_as_base64()))).convert("L")
    return float(np.asarray(shot)[:60, :60].mean())


def point_at(browser: Any, index: int) -> None:
    """Move the pointer to a sample of the map."""
    script(
        browser,
        """
        const stage = document.getElementById("stage"), box = stage.getBoundingClientRect();
        const data = JSON.parse(document.getElementById("data").textContent);
        const [x, y] = data.map.points[arguments[0]];
        stage.dispatchEvent(new PointerEvent("pointermove", { bubbles: true, pointerType: "mouse",
          clientX: box.left + x / 1000 * box.width, clientY: box.top + y / 1000 * box.height }));
        """,
        index,
    )


def test_the_page_runs_loads_nothing_and_fits(make_run: MakeRun, browser: Any) -> None:
    page = write_report(make_run())
    for width, dark in ((1280, False), (1280, True), (390, False)):
        visit(browser, page, width=width, dark=dark)
        assert browser.get_log("browser") == [], (
            "no error, and nothing that the security policy refused"
        )
        requests = [
            entry["message"]
            for entry in browser.get_log("performance")
            if "requestWillBeSent" in entry["message"]
            and '"documentURL":"chrome://' not in entry["message"]  # the browser's own new tab
        ]
        assert all('"url":"file:' in r or '"url":"data:' in r for r in requests)
        assert script(browser, "return document.documentElement.scrollWidth") <= width
        broken = "return [...document.images].filter(i => !i.complete || !i.naturalWidth).length"
        assert script(browser, broken) == 0
        assert (background(browser) < 60) == dark


def test_hostile_names_do_nothing(make_run: MakeRun, browser: Any) -> None:
    page = write_report(make_run(classes=HOSTILE, name="<img src=x onerror=window.canary=3>"))
    visit(browser, page)
    for index in range(5):
        point_at(browser, index)
    script(
        browser, "for (const button of document.querySelectorAll('.legend button')) button.click()"
    )
    assert script(browser, "return window.canary === undefined")
    assert browser.get_log("browser") == []
    assert browser.title.startswith("<img src=x onerror")
    assert script(
        browser, "return document.querySelector('.legend button').textContent"
    ).startswith(HOSTILE)


def test_the_policy_stops_what_escaping_would_miss(
    make_run: MakeRun, browser: Any, tmp_path: Path
) -> None:
    page = write_report(make_run())
    planted = '<script>window.canary=1</script><img src="data:," onerror="window.canary=2"></main>'
    copy = tmp_path / "planted.html"
    copy.write_text(page.read_text(encoding="utf-8").replace("</main>", planted), encoding="utf-8")
    visit(browser, copy)
    assert script(browser, "return window.canary === undefined")
    assert any(
        "Content Security Policy" in entry["message"] for entry in browser.get_log("browser")
    )


def test_theme_button_turns_dark_and_back(make_run: MakeRun, browser: Any) -> None:
    visit(browser, write_report(make_run()))
    light = background(browser)
    script(browser, "document.getElementById('theme').click()")
    assert background(browser) < 60 < light
    browser.refresh()
    assert background(browser) < 60, "the choice is remembered"
    script(browser, "document.getElementById('theme').click()")
    assert background(browser) == light


def test_pointing_at_the_map_shows_the_sample(make_run: MakeRun, browser: Any) -> None:
    visit(browser, write_report(make_run()))
    data = script(browser, "return JSON.parse(document.getElementById('data').textContent).map")
    browser.execute_cdp_cmd(
        "Runtime.evaluate", {"expression": "document.images.sprite?.decode()", "awaitPromise": True}
    )
    index = 4
    point_at(browser, index)
    tip = script(
        browser,
        "const t = document.querySelector('.tip');"
        "return [getComputedStyle(t).display, t.innerText]",
    )
    assert tip[0] == "flex"
    shown = int(script(browser, "return document.getElementById('stage').dataset.point"))
    assert data["points"][shown][:2] == data["points"][index][:2]
    assert (
        data["classes"][str(data["points"][shown][2])] in tip[1] and data["names"][shown] in tip[1]
    )
    colors = (
        "return [...document.querySelector('.tip canvas').getContext('2d')"
        ".getImageData(36, 36, 1, 1).data]"
    )
    red, green, blue, alpha = script(browser, colors)
    assert alpha == 255 and max(red, green, blue) > 60, "the thumbnail is painted"
    script(
        browser,
        "document.getElementById('stage')"
        ".dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowRight' }))",
    )
    assert int(script(browser, "return document.getElementById('stage').dataset.point")) == (
        shown + 1
    ) % len(data["points"])


def test_legend_filters_and_pictures_can_be_shown(make_run: MakeRun, browser: Any) -> None:
    visit(browser, write_report(make_run()))
    ink = """
      const c = document.querySelector('.sheet');
      const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
      let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n;
    """
    off = "return [...document.querySelectorAll('#stage path.off')].map(p => p.dataset.label)"
    press = "document.getElementById('pictures').click()"
    # Images are shown at once, as soon as the sprite is decoded.
    decoded = "document.getElementById('sprite').decode().then(arguments[0])"
    browser.execute_async_script(decoded)
    everything = script(browser, ink)
    assert script(browser, off) == [] and everything > 1000
    script(browser, press)
    assert script(browser, ink) == 0
    script(browser, press)
    assert script(browser, ink) == everything
    label = script(
        browser,
        "const b = document.querySelector('.legend button'); b.click(); return b.dataset.label",
    )
    assert label not in script(browser, off) and len(script(browser, off)) == 2
    assert 0 < script(browser, ink) < everything
    script(browser, "document.querySelector('.legend button').click()")
    assert script(browser, off) == [] and script(browser, ink) == everything


def test_pointing_at_a_curve_says_its_value(make_run: MakeRun, browser: Any) -> None:
    visit(browser, write_report(make_run()))
    move = """
      const svg = document.querySelector('[data-chart="0"] svg'), box = svg.getBoundingClientRect();
      const index = { clientX: box.left + box.width * arguments[1], clientY: box.top + 9 };
      svg.dispatchEvent(new PointerEvent(arguments[0], index));
      return document.querySelector('[data-chart="0"] .summary').textContent;
    """
    assert script(browser, move, "pointermove", 0.99) == "epoch 2: 0.375"
    assert script(browser, move, "pointermove", 0.0) == "epoch 0.25: 3"
    assert script(browser, move, "pointerleave", 0.0) == "3 → 0.375"


def test_a_cloud_turns_and_a_spectrogram_sounds(browser: Any, tmp_path: Path) -> None:
    clouds = Furniture()
    chain = Transformed(transforms=[PointRotation()])
    page = write_gallery(clouds, chain, clouds.input, tmp_path / "clouds.html", samples=1)
    visit(browser, page)
    image = browser.find_element("css selector", "[data-points]")
    before = image.get_attribute("src")
    image.send_keys("\ue014")  # the right arrow
    script(
        browser,
        "return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))",
    )
    assert image.get_attribute("src") != before
    assert image.get_attribute("data-yaw") == "0.91"
    speech = Speech()
    page = write_gallery(speech, Transformed(transforms=[RandomFrames(frames=32)]), speech.input,
                         tmp_path / "speech.html", samples=1)  # fmt: skip
    visit(browser, page)
    length = """const sound = new Audio(document.querySelector("[data-sound]").dataset.sound);
        return new Promise((done) => { sound.onloadedmetadata = () => done(sound.duration);
                                       sound.onerror = () => done(-1); })"""
    assert 1.0 < script(browser, length) < 1.5
    image = browser.find_element("css selector", "[data-sound]")
    script(
        browser,
        "Audio.prototype.play = () => Promise.resolve();"
        "HTMLMediaElement.prototype.play = Audio.prototype.play",
    )
    image.click()
    assert image.get_attribute("aria-pressed") == "true"
    image.click()
    assert image.get_attribute("aria-pressed") == "false"
