"""Learned is code that passes the tests of its row, whatever it looks like."""

import subprocess
import sys

from pydantic import Field

from ilp_mlflow.plugin import Judged, ScoredRows, VerdictRule


class PassesTests(VerdictRule):
    """Learned when the code that the model writes passes the tests in the row's column `tests`."""

    seconds: float = Field(default=10, gt=0)
    """Time for a program."""

    def judge(self, rows: ScoredRows) -> Judged:
        """The model answers each prompt greedily, in twice as many tokens as its row at most."""
        if rows.generate is None:
            n = rows.scores.num_rows
            return Judged(["unscored"] * n, [None] * n, ["there is no model to ask"] * n)
        limits = [2 * tokens for tokens in rows.scores["tokens"].to_pylist()]
        statuses, margins, reasons = [], [], []
        said = rows.generate(rows.samples, limits)
        for sample, completions in zip(rows.samples, said, strict=True):
            program = completions[0].text if completions else ""
            passed = self._passes(f"{program}\n{sample.metadata.get('tests', '')}")
            statuses.append("learned" if passed else "unlearned")
            margins.append(1.0 if passed else -1.0)
            reasons.append("its tests pass" if passed else "its tests fail")
        return Judged(statuses, margins, reasons)

    def _passes(self, program: str) -> bool:
        command = [sys.executable, "-I", "-c", program]
        try:
            done = subprocess.run(command, capture_output=True, timeout=self.seconds)
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0
