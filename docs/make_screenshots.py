"""Take the screenshots of a report for the README: docs/images/report-light.png and report-dark.png.

Usage: ``python docs/make_screenshots.py [REPORT.html]``. Needs Chromium or Chrome.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

IMAGES = Path(__file__).parent / "images"
REPORT = Path("runs/quickstart/report.html")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
SCHEMES = {"dark": 0, "light": 1}  # values of Blink's preferredColorScheme
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--hide-scrollbars", "--window-size=1280,900"),
    *("--force-device-scale-factor=2", "--virtual-time-budget=8000"),
)


def main() -> None:
    """Screenshot the report that is named on the command line, or that of the quickstart."""
    report = Path(sys.argv[1]) if len(sys.argv) > 1 else REPORT
    if not report.is_file():
        sys.exit(f"{report}: no such file; run `make demo` first, or name a report")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit(f"no browser found; install one of {', '.join(BROWSERS)}, for example `apt-get install chromium`")
    IMAGES.mkdir(exist_ok=True)
    for scheme in SCHEMES:
        image = IMAGES / f"report-{scheme}.png"
        take(browser, report, scheme, image)
        print(f"wrote {image} ({image.stat().st_size / 1000:.0f} kB)")


def take(browser: str, report: Path, scheme: str, image: Path) -> None:
    """Write the first screen of the report, in the ``dark`` or ``light`` colour scheme, as a PNG."""
    with tempfile.TemporaryDirectory() as profile:
        settings = f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}"
        output = f"--screenshot={image.resolve()}"
        command = [browser, *FLAGS, settings, output, f"--user-data-dir={profile}", report.resolve().as_uri()]
        image.unlink(missing_ok=True)
        done = subprocess.run(command, capture_output=True, timeout=120, check=False)
    if not image.is_file():
        reason = done.stderr.decode(errors="replace").strip().splitlines()
        sys.exit(f"{browser} wrote no screenshot: {reason[-1] if reason else f'exit status {done.returncode}'}")


if __name__ == "__main__":
    main()
