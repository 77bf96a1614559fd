"""The rule for rows with a check of their own: learned is what passes it when the model speaks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from pydantic import Field, model_validator

from ilp_mlflow.core.values import Sample, Status
from ilp_mlflow.core.verdict_rules import Completion, Judged, ScoredRows, VerdictRule
from ilp_mlflow.scoring.verifiers.choose import find_check, run_check

ALPHA = 0.1
"""Share 0..1 of intervals that may miss the pass rate: Wilson's at 90 %."""
LENGTHS = 2
"""How many times its row's tokens a completion may have, where nothing else is said."""
MIN_TOKENS = 16
"""Tokens that any completion may have: a short answer may be said in a sentence."""


class _Passes(NamedTuple):
    """What came of the completions of one sample."""

    greedy: bool | None
    """Whether the greedy one passes; None where the check could not judge it."""
    cut: bool
    """Whether that was cut off."""
    has_room: bool = True
    """Whether the prompt left the model room to answer."""
    passed: int = 0
    """How many samples pass."""
    drawn: int = 0
    """Of so many."""


class Verify(VerdictRule):
    """Learned is what passes a check when the model answers by itself.

    The check is built in (`math`, `exact`, `contains`, `json`, `choice`, `python_tests`,
    `rouge_l`), or MODULE:NAME of a function with the signature of TRL's reward functions, or of a
    scorer of MLflow. A completion that is cut off fails.
    """

    needs_samples: ClassVar[bool] = True

    check: str
    """Name of a built-in check, or MODULE:NAME."""
    threshold: float = 1.0
    """A completion passes from this value on."""
    samples: int = Field(default=0, ge=0)
    """Samples at temperature 1 of a prompt whose greedy answer fails: learned where the pass rate
    is above one half with 95 % confidence, unlearned where it is below; it takes 3 that agree."""
    max_new_tokens: int | None = Field(default=None, ge=1)
    """Tokens of a completion, at most; left out, twice those of the row's own answer."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Passed on to the check, such as `schema` for `json` or `timeout` for `python_tests`."""

    @model_validator(mode="after")
    def _check_is_there(self) -> Verify:
        # told before anything is trained or scored
        find_check(self.check)
        return self

    def judge(self, rows: ScoredRows) -> Judged:
        """Greedy first, then samples where that fails; the margin is the pass rate less .5."""
        samples = rows.samples
        if rows.generate is None:
            return _unscored(len(samples), "there is no model to ask, and a check needs its answer")
        limits = [self._limit(tokens) for tokens in rows.scores["tokens"].to_pylist()]
        said = rows.generate(samples, limits)
        values = self._values(samples, said)
        passes = []
        for completions, of_sample in zip(said, values, strict=True):
            cut = bool(completions) and not completions[0].ended
            has_room = bool(completions)
            passes.append(_Passes(of_sample[0] if of_sample else None, cut, has_room))
        failed = [n for n, one in enumerate(passes) if one.greedy is False]
        if self.samples and failed:
            again = [samples[n] for n in failed]
            drawn = rows.generate(again, [limits[n] for n in failed], self.samples)
            for n, of_sample in zip(failed, self._values(again, drawn), strict=True):
                judged = [value for value in of_sample if value is not None]
                passes[n] = passes[n]._replace(passed=sum(judged), drawn=len(judged))
        return Judged(
            [_status(one) for one in passes],
            [_margin(one) for one in passes],
            [_reason(one, self.check) for one in passes],
        )

    def _limit(self, tokens: int) -> int:
        return self.max_new_tokens or max(MIN_TOKENS, LENGTHS * tokens)

    def _values(
        self, samples: Sequence[Sample], said: Sequence[Sequence[Completion]]
    ) -> list[list[bool | None]]:
        """Whether each completion of each sample passes; None where the check cannot judge it."""
        flat_samples = list[Sample]()
        flat = list[Completion]()
        for sample, completions in zip(samples, said, strict=True):
            flat_samples += [sample] * len(completions)
            flat += completions
        check = find_check(self.check)
        texts = [completion.text for completion in flat]
        values = iter(run_check(self.check, check, flat_samples, texts, self.arguments))
        judged = []
        for completions in said:
            of_sample: list[bool | None] = []
            for completion in completions:
                value = next(values)
                passed = value is not None and value >= self.threshold and completion.ended
                of_sample.append(None if value is None else passed)
            judged.append(of_sample)
        return judged


def _unscored(count: int, reason: str) -> Judged:
    return Judged(["unscored"] * count, [None] * count, [reason] * count)


def _status(passes: _Passes) -> Status:
    if passes.greedy is None:
        return "unscored"
    if passes.greedy:
        return "learned"
    if not passes.drawn:
        return "unlearned"
    # takes a second to import
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(passes.passed, passes.drawn, alpha=ALPHA, method="wilson")
    if low > 0.5:
        return "learned"
    return "unlearned" if high < 0.5 else "uncertain"


def _margin(passes: _Passes) -> float | None:
    """The pass rate less one half."""
    if passes.greedy is None:
        return None
    if passes.greedy or not passes.drawn:
        return 0.5 if passes.greedy else -0.5
    return passes.passed / passes.drawn - 0.5


def _reason(passes: _Passes, check: str) -> str:
    if not passes.has_room:
        return "the prompt leaves the model no room to answer"
    if passes.greedy is None:
        return f"the check '{check}' gives no value for it"
    if passes.greedy:
        return f"its greedy answer passes '{check}'"
    how = "is cut off" if passes.cut else f"fails '{check}'"
    if not passes.drawn:
        return f"its greedy answer {how}"
    n = passes.drawn
    at_least_one = f"pass@{n} {'1' if passes.passed else '0'}"
    return f"its greedy answer {how}; {passes.passed} of {n} samples pass ({at_least_one})"
