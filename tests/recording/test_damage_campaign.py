"""A hundredth of the campaign of kills, signals and damage (benchmarks/campaign.py)."""

import subprocess
import sys
from pathlib import Path

import pytest

CAMPAIGN = Path(__file__).parents[2] / "benchmarks" / "campaign.py"


@pytest.mark.slow
def test_a_hundredth_of_the_campaign_finds_nothing_false_and_nothing_lost():
    arguments = [sys.executable, str(CAMPAIGN), "--share", "0.01"]
    found = subprocess.run(arguments, capture_output=True, text=True, timeout=550, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    rows = [line.split() for line in found.stdout.splitlines()[1:]]
    assert len(rows) == 5
    assert all(row[-3:-1] == ["0", "0"] for row in rows)
    assert sum(int(row[-4].replace(",", "")) for row in rows) > 100


@pytest.mark.slow
def test_the_campaign_would_notice(tmp_path):
    """Planted: a reader that believes any bytes."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); sys.argv[1:] = "
        "['--share', '0.02', '--only', 'stores']\n"
        "import campaign, campaign_damage\n"
        "from losspath.recording.rows import RowReader\n"
        "def believing(self, rows, start):\n"
        "    self._fill(rows, start)\n"
        "assert RowReader.read\n"
        "RowReader.read = believing\n"
        "campaign.main()\n"
    )
    arguments = [sys.executable, "-c", code, str(CAMPAIGN.parent)]
    found = subprocess.run(arguments, capture_output=True, text=True, timeout=550, check=False)
    assert found.returncode == 1, found.stdout + found.stderr
    assert "is false" in found.stdout
