"""The commands behind the figures of long answers, in their smallest form."""

import json
import sys

from experiments.long import decisive, gsm8k
from experiments.long.base import make_base
from experiments.long.rows import KINDS, make_rows


def test_rows_have_one_fact_that_decides():
    rows = make_rows(40, 3)
    assert {row.kind for row in rows} == set(KINDS)
    assert len({row.prompt for row in rows}) == 40
    for row in rows:
        assert row.answer != row.changed
        assert row.fact in row.answer
        assert row.wrong in row.changed
        said = [row.answer, row.changed]
        assert decisive.says_fact(said, [row.fact] * 2, [row.wrong] * 2) == [1, 0]


def test_rows_are_the_same_for_the_same_seed():
    assert make_rows(12, 3) == make_rows(12, 3)
    assert make_rows(12, 3) != make_rows(12, 4)


def run(module, monkeypatch, capsys, *options):
    monkeypatch.setattr(sys, "argv", ["", *map(str, options)])
    module.main()
    return capsys.readouterr().out


def test_decisive(store, tmp_path, monkeypatch, capsys):
    make_base(tmp_path / "base", width=32, layers=1)
    model = tmp_path / "base"
    out = run(decisive, monkeypatch, capsys, model, "--rows", 8, "--epochs", 1, "--full")
    for label in ("greedy", "one token in twenty, whichever", "long", "verify"):
        assert f"{label}\n  trained with the fact changed: " in out


def test_gsm8k(store, tiny_model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gsm8k, "CONTROLS", 6)
    lines = []
    for n in range(14):
        answer = f" He has {n} and {n + 1}, so {n} + {n + 1} = {2 * n + 1}.\n#### {2 * n + 1}"
        lines.append(json.dumps({"id": f"q{n}", "prompt": f"Question {n}\n", "completion": answer}))
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    found = tmp_path / "out.json"
    options = ("--rows", 8, "--epochs", 1, "--out", found)
    out = run(gsm8k, monkeypatch, capsys, tmp_path / "rows.jsonl", tiny_model, *options)
    assert "after 1 epochs" in out
    assert "6 rows never trained" in out
    assert json.loads(found.read_text())["1"].keys() >= {"greedy", "long", "verify"}
