"""A headless Chromium that a test drives, and what it says about a page. Not a test."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

_FLAGS = [
    "--headless",
    "--no-sandbox",  # containers and CI run as root, where Chromium's own sandbox refuses to start
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_AXE = ROOT / "tests" / "board" / "axe" / "axe.min.js"


def open_chromium(profile: Path, *, width: int = 1400, height: int = 1000) -> Any:
    """A driver with logs of console and network. Skips the test where Chromium, its driver or selenium is missing."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is missing: pip install selenium")
    browser = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("no Chromium with its driver on this machine: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in [*_FLAGS, f"--window-size={width},{height}", f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


def resize(chromium: Any, width: int, height: int) -> None:
    """Make the page this large: narrower than the window of a headless browser can be."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 720}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def until(condition: Callable[[], Any], what: str, *, seconds: float = 20.0) -> Any:
    """The first true value of `condition`; fails with `what` where none comes in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    pytest.fail(f"waited {seconds:.0f} s in vain for {what}")


def draw_all(chromium: Any) -> int:
    """Scroll to every chart and wait until it is drawn; returns how many there are."""
    charts = chromium.find_elements("css selector", ".chart")
    for chart in charts:
        chromium.execute_script("arguments[0].scrollIntoView({block: 'center'})", chart)
        until(lambda chart=chart: chart.get_attribute("data-drawn"), chart.get_attribute("data-chart"))
    return len(charts)


def console_errors(chromium: Any) -> list[str]:
    """What the console has complained about since the last call."""
    return [entry["message"] for entry in chromium.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def requested(chromium: Any) -> list[str]:
    """Addresses that the pages have asked for since the last call."""
    messages = [json.loads(entry["message"])["message"] for entry in chromium.get_log("performance")]
    return [
        message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"
    ]


def violations(chromium: Any) -> list[str]:
    """What axe-core finds wrong on the whole page: rule, element and why, one line each."""
    # Parts that are not drawn before they are scrolled to would otherwise go unchecked.
    chromium.execute_script(
        "document.head.insertAdjacentHTML('beforeend', '<style>*{content-visibility:visible!important}</style>')"
    )
    chromium.execute_script(_AXE.read_text(encoding="utf-8"))
    found = chromium.execute_async_script("axe.run().then(arguments[arguments.length - 1])")
    return [
        f"{rule['id']}: {node['html'][:120]} {node['failureSummary']}"
        for rule in found["violations"]
        for node in rule["nodes"]
    ]
