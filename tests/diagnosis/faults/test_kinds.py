"""The page of faults has every kind that can be found."""

import re
from pathlib import Path

from ilp_mlflow.diagnosis.faults.loss import loss_mask

ROOT = Path(__file__).parents[3]


def test_the_page_has_every_kind():
    code = "".join(
        path.read_text(encoding="utf-8")
        for path in sorted((ROOT / "ilp_mlflow" / "diagnosis" / "faults").glob("*.py"))
    )
    kinds = {*re.findall(r'\bkind="(\w+)"', code), *loss_mask.REASONS} - {
        "stage",
        "checkpoint",
        "run",
    }
    page = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| `(\w+)` \|", page, re.M)
    assert len(kinds) > 7
    assert kinds <= set(documented)
