"""Strengths are read off what `ilp lab --json` prints; here off rows that were made up."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

SCRIPT = Path(__file__).parents[2] / "experiments" / "strengths.py"


def lab(path, seed, world):
    """A document whose evidence for `x` is right as often as it is strong, and always for `y`."""
    rng = random.Random(seed)
    rows = []
    for _ in range(400):
        signal = rng.uniform(0.5, 1)
        group = "x" if rng.random() < signal else "control"
        rows.append({"group": group, "cause": "x", "evidence": {"x": [signal, signal]}})
        rows.append({"group": "y", "cause": "y", "evidence": {"y": [1.0, 1.0]}})
    found = {"seed": seed, "attribution": {"without_probes": {"evidence": rows}}}
    if world == "real":
        found["acceptance"] = {}
    path.write_text(json.dumps(found))
    return str(path)


@pytest.mark.slow
def test_a_fit_finds_how_often_evidence_is_right_and_shows_it_on_other_seeds(tmp_path):
    out = tmp_path / "strengths.yaml"
    fitted = [lab(tmp_path / f"{w}-{s}.json", s, w) for w in ("lab", "real") for s in (1, 2)]
    other = lab(tmp_path / "lab-9.json", 9, "lab")
    command = [sys.executable, str(SCRIPT)]
    subprocess.run([*command, "fit", *fitted, "--out", str(out)], check=True, capture_output=True)
    document = yaml.safe_load(out.read_text())
    assert document["measured_on"] == "lab-1, lab-2, real-1, real-2"
    assert min(document["curves"]["y"]["probabilities"]) > 0.99
    # of the evidence of .5 half is right, of that of 1.0 all
    low, *_, high = document["curves"]["x"]["probabilities"]
    assert low < 0.65
    assert high > 0.9
    shown = subprocess.run(
        [*command, "show", other, "--out", str(out)], check=True, capture_output=True, text=True
    ).stdout
    error = float(shown.partition("calibration error ")[2].split()[0])
    assert error < 0.05
