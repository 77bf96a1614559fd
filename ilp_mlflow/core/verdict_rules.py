"""What a rule of verdicts is given, and what it returns; rules are plugins.

Entry points of the group `ilp_mlflow.verdicts` name them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

from ilp_mlflow.core.value import Value
from ilp_mlflow.core.values import Sample, Status

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa


class Completion(NamedTuple):
    """What a checkpoint says of its own accord after a prompt."""

    text: str
    """Without the end token."""
    ended: bool
    """False where it was cut off at the number of tokens it was given."""


class AnswerTokens(NamedTuple):
    """What a checkpoint gives for every token of a sample's right answer; fields are (tokens,)."""

    logprobs: npt.NDArray[np.float32]
    """Log-probability of the token, nats."""
    best_logprobs: npt.NDArray[np.float32]
    """That of the checkpoint's first choice in its place, nats."""
    best_ids: npt.NDArray[np.int32]
    """The first choice: the token's id."""


class Generate(Protocol):
    """Lets a checkpoint speak; what it was asked before comes from the cache."""

    def __call__(
        self, samples: Sequence[Sample], max_new_tokens: Sequence[int], draws: int = 0
    ) -> Sequence[Sequence[Completion]]:
        """What it says to the prompt of each sample, in so many tokens at most.

        Greedily, or with `draws` as many samples at temperature 1. A prompt that leaves no room
        for an answer has none.
        """
        ...


TokensById = Callable[[], Mapping[str, AnswerTokens]]
"""Gives what there is for the tokens of right answers, by sample id; read when it is called."""


def _no_tokens() -> Mapping[str, AnswerTokens]:
    return {}


@dataclass(frozen=True)
class ScoredRows:
    """Samples under one checkpoint, to be judged by one rule."""

    checkpoint: str
    """Name of the checkpoint."""
    is_base: bool
    """Whether that is the base, which no stage has trained yet."""
    scores: pa.Table
    """Columns of `Score`, one row per sample."""
    seed: int = 0
    """Of all that is drawn at random."""
    samples_by_id: Mapping[str, Sample] = field(default_factory=dict)
    """The samples; of scores that come without them, none."""
    tokens: TokensById = _no_tokens
    """What this checkpoint gives for the tokens of their answers."""
    base_tokens: TokensById = _no_tokens
    """What the base gives for them."""
    controls: TokensById = _no_tokens
    """What this checkpoint gives for rows that no stage trains."""
    base_controls: TokensById = _no_tokens
    """What the base gives for those."""
    control_sources: Mapping[str, str] = field(default_factory=dict)
    """The source of each of those, by id; "" where it has none."""
    generate: Generate | None = None
    """Lets the checkpoint speak; None where there is no model to ask."""

    @property
    def samples(self) -> list[Sample]:
        """The samples in the order of `scores`."""
        return [self.samples_by_id[i] for i in self.scores["sample_id"].to_pylist()]


class Judged(NamedTuple):
    """What a rule says of scored rows; all fields are in their order."""

    statuses: Sequence[Status] | pa.Array
    """What became of each."""
    margins: Sequence[float | None] | npt.NDArray[np.float64]
    """Distance from the decision, in the rule's own unit (nats, where it goes by scores); positive
    is learned, None or nan is no distance."""
    reasons: Sequence[str] | pa.Array
    """One sentence each that a user understands."""
    grades: Sequence[str | None] | pa.Array | None = None
    """How far each was learned, in the rule's own words, such as `reached`; None without such."""


class VerdictRule(Value):
    """Base of rules that say whether samples are learned; fields are options."""

    needs_samples: ClassVar[bool] = True
    """Whether it reads more than scores: rows whose sample is not known are then unscored."""
    needs_controls: ClassVar[bool] = False
    """Whether it compares with rows that no stage trains, which are scored for it."""

    @abstractmethod
    def judge(self, rows: ScoredRows) -> Judged:
        """Say of each row of `rows.scores` whether it is learned under the checkpoint.

        A row that says itself that it is unscored is not among them.
        """
