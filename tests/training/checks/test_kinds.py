"""Every kind of finding is in the table of docs/check.md, and no other."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_page_has_every_kind():
    code = "".join(
        path.read_text(encoding="utf-8")
        for path in (ROOT / "ilp_mlflow" / "training" / "checks").glob("*.py")
    )
    kinds = re.findall(r'kind="(\w+)"', code)
    kinds += re.findall(r'row_finding\(\s*"(\w+)"', code)
    page = (ROOT / "docs" / "check.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| (`.+?) \| (?:error|warning|note) \|", page, re.M)
    documented = re.findall(r"`(\w+)`", " ".join(table))
    assert len(kinds) > 15
    assert set(documented) == set(kinds)
