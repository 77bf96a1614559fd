"""The page of faults has every kind that can be found."""

import re
from pathlib import Path

from ilp_mlflow.diagnosis.faults.loss import loss_mask
from ilp_mlflow.diagnosis.faults.optimization import logged_loss

ROOT = Path(__file__).parents[3]


def test_the_page_has_every_kind():
    code = "".join(
        path.read_text(encoding="utf-8")
        for path in sorted((ROOT / "ilp_mlflow" / "diagnosis" / "faults").rglob("*.py"))
    )
    named = re.findall(r'(?:\bkind=|\bExplanation\(\s*)"(\w+)"', code)
    kinds = {*named, *loss_mask.REASONS, logged_loss.LOSS_GAP} - {
        "stage",
        "checkpoint",
        "run",
    }
    page = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| `(\w+)` \|", page, re.M)
    assert len(kinds) > 25
    assert kinds <= set(documented)
