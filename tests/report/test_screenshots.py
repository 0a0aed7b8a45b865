"""The script that takes the README's screenshots."""

import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

from helpers.browser import needs_browser
from sealtune.report.page import render

SCRIPT = Path(__file__).parents[2] / "docs/make_screenshots.py"


def take(folder, report, **environment):
    """Run a copy of the script, so that it does not overwrite the images of the docs."""
    copy = shutil.copy(SCRIPT, folder)
    command = [sys.executable, copy, report]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)


@needs_browser
def test_the_light_and_the_dark_screenshot_differ(view, tmp_path):
    report = tmp_path / "report.html"
    report.write_text(render(view), encoding="utf-8")
    done = take(tmp_path, report)
    assert done.returncode == 0, done.stderr
    light, dark = ((tmp_path / f"images/report-{scheme}.png").read_bytes() for scheme in ("light", "dark"))
    assert light != dark
    assert all(struct.unpack(">II", image[16:24]) == (2560, 1800) and len(image) < 500_000 for image in (light, dark))


def test_a_missing_report_or_browser_is_one_clear_line(tmp_path):
    done = take(tmp_path, tmp_path / "report.html")
    assert done.returncode == 1 and "no such file" in done.stderr and done.stderr.count("\n") == 1
    (tmp_path / "report.html").write_text("<p>")
    done = take(tmp_path, tmp_path / "report.html", PATH=str(tmp_path))
    assert done.returncode == 1 and "no browser found" in done.stderr and done.stderr.count("\n") == 1
