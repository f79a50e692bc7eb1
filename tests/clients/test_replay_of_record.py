"""The main job on a public stream: `bptt replay` of ETTh2 with the default configuration, in the literature's protocol.

The data set is not part of the repository: the test reads it from the folder that BPTT_DATA names, or from shared/data
beside the checkout, and is skipped where it is in neither. Speed is printed, not asserted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DATA = Path(os.environ.get("BPTT_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.mark.skipif(not (DATA / "ETTh2.csv").exists(), reason=f"no ETTh2.csv in {DATA.name}/ (set BPTT_DATA)")
def test_the_default_configuration_beats_the_published_figures_on_etth2(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "bptt_client.cli", "replay", str(DATA / "ETTh2.csv"), "--time", "date"]
    command += ["--fit-rows", "2880", "--score-from", "3600", "--score-to", "14400", "--horizon", "1"]
    subprocess.run([*command, "--report", str(report)], check=True, cwd=tmp_path, stdout=subprocess.DEVNULL)
    result = json.loads(report.read_text())
    print(f"{result['events_per_second']:.0f} events/s")
    assert result["scored"] == 10_800
    assert result["overall"]["persistence_mse"] == pytest.approx(0.404, abs=0.0005)
    assert result["overall"]["mse"] <= 0.335
    assert result["overall"]["coverage"] == pytest.approx(0.9, abs=0.01)
