"""Answers of which a part was in no loss, as models trained elsewhere show it when they are asked.

Training makes what is in the loss more likely than it was even where it is not learned. A beginning
that became no more likely, where the rest of the answer did, or the prompt, was in no loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from ilp_mlflow.core.interfaces import MIN_TAUGHT_SHARE
from ilp_mlflow.core.texts import Text, last_turn, with_last_turn
from ilp_mlflow.core.values import Sample, Stage, Subject
from ilp_mlflow.diagnosis.faults.facts import RunFacts
from ilp_mlflow.diagnosis.faults.fault import Fault
from ilp_mlflow.diagnosis.faults.loss.ends_never_raised import MIN_ROWS, is_only_end_wrong

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBED = 8
"""Rows of a stage of which parts are asked for."""
MIN_RISE = 1.0
"""By how much the log-probability of what was trained rises at least, nats per token."""
MAX_RISE = 0.25
"""By how much that of what was not trained may rise, nats per token: it drifts with the weights, in
tiny models by 8 either way, from a base as sure of other words."""
LEARNED = -1.5
"""Log-probability that the trained part has at least where a masked one is told from a training
that failed, nats per token."""
MOST = 0.85
"""Share 0..1 of the rows that are asked which must agree: 7 of 8."""


class _Parts(NamedTuple):
    """Log-probabilities of the parts of one row, nats per token."""

    prompt: float
    """The second half of its prompt, behind the first one, as plain text."""
    beginning: float
    """The first third of its answer."""
    rest: float
    """The last third of it, behind all before."""


class _Rises(NamedTuple):
    """The parts of one row before the training and after it."""

    before: _Parts
    after: _Parts


def find_answers_never_raised(facts: RunFacts, stage: Stage) -> list[Fault]:
    """Answers whose beginning became no likelier while their rest did, or the prompt alone.

    Models are asked about PROBED unlearned rows, of a stage that taught few of its rows.
    """
    if facts.context.taught.get(stage.name, 1.0) >= MIN_TAUGHT_SHARE or facts.last_model is None:
        return []
    unlearned = set(facts.unlearned)
    of_stage = [sample for sample in stage.samples if sample.id in unlearned]
    scores = facts.context.last_scores(of_stage)
    rows = [s for s in of_stage if not is_only_end_wrong(scores[s.id]) and _has_parts(s)]
    probed = rows[:: max(1, len(rows) // PROBED)][:PROBED]
    if len(probed) < MIN_ROWS:
        return []
    tokenizer = facts.last_model().tokenizer
    before = _ask(facts, facts.context.checkpoints[0].name, probed, tokenizer)
    after = _ask(facts, facts.checkpoint_of(stage), probed, tokenizer)
    rises = [_Rises(*pair) for pair in zip(before, after, strict=True)]
    said = _what_was_trained(rises, chance=-math.log(len(tokenizer)))
    if not said:
        return []
    part = (lambda parts: parts.rest) if "rest" in said else (lambda parts: parts.prompt)
    samples = tuple(sample.id for sample in of_stage)
    return [
        Fault(
            kind="answer_not_in_the_loss",
            cause="not_trained",
            reason=f"{said}: in {len(rises)} rows, the log-probability of the answer's beginning "
            f"went from {_course(rises, lambda parts: parts.beginning)} nats per token, that of "
            f"{'its rest' if 'rest' in said else 'the prompt'} from {_course(rises, part)}",
            change="label the whole answer, and read the labels of one batch before training",
            strength=0.95,
            subject=Subject(kind="stage", name=stage.name),
            samples=samples,
            reasons=dict.fromkeys(samples, said),
            stops=True,
        )
    ]


def _what_was_trained(rises: Sequence[_Rises], chance: float) -> str:
    """What was in the loss in place of whole answers; "" where nothing speaks for that.

    `chance` is the log-probability of any token by chance: what is in the loss is above it.
    """

    def is_trained(before: float, after: float) -> bool:
        return after - before >= MIN_RISE and after >= LEARNED

    def is_masked(before: float, after: float) -> bool:
        return after - before <= MAX_RISE or after <= chance

    if not _most(rises, lambda b, a: is_masked(b.beginning, a.beginning)):
        return ""
    if _most(rises, lambda b, a: is_trained(b.rest, a.rest)):
        return "the beginning of the answers was not in the loss, and their rest was"
    prompts_are_trained = _most(rises, lambda b, a: is_trained(b.prompt, a.prompt))
    if prompts_are_trained and _most(rises, lambda b, a: is_masked(b.rest, a.rest)):
        return "the answers were not in the loss, and the prompts were"
    return ""


def _most(rises: Sequence[_Rises], holds: Callable[[_Parts, _Parts], bool]) -> bool:
    return sum(holds(*rise) for rise in rises) >= MOST * len(rises)


def _course(rises: Sequence[_Rises], part: Callable[[_Parts], float]) -> str:
    """How a part went, in the row in the middle."""
    before = median(part(rise.before) for rise in rises)
    return f"{before:.1f} to {median(part(rise.after) for rise in rises):.1f}"


def _has_parts(sample: Sample) -> bool:
    """Whether an answer has a beginning and a rest, and the prompt two halves."""
    return len(last_turn(sample.completion).split()) > 1 and len(last_turn(sample.prompt)) > 1


def _ask(
    facts: RunFacts,
    checkpoint: str,
    samples: Sequence[Sample],
    tokenizer: PreTrainedTokenizerBase,
) -> list[_Parts]:
    """How likely a checkpoint finds the parts of some samples."""
    exchanges: list[tuple[Text, Text]] = []
    counts = []
    for sample in samples:
        answer = last_turn(sample.completion)
        beginning, rest = _cut(answer, 1 / 3)[0], _cut(answer, 2 / 3)[1]
        first_half, second_half = _cut(last_turn(sample.prompt), 1 / 2)
        exchanges += [
            (sample.prompt, with_last_turn(sample.completion, beginning)),
            (sample.prompt, with_last_turn(sample.completion, _cut(answer, 2 / 3)[0])),
            (sample.prompt, sample.completion),
            (first_half, second_half),
        ]
        counts.append([_tokens(text, tokenizer) for text in (second_half, beginning, rest)])
    logprobs = facts.context.probe.logprobs(checkpoint, exchanges)
    parts = []
    for number, (of_prompt, of_beginning, of_rest) in enumerate(counts):
        begun, without_rest, whole, prompt = logprobs[4 * number : 4 * number + 4]
        parts.append(
            _Parts(prompt / of_prompt, begun / of_beginning, (whole - without_rest) / of_rest)
        )
    return parts


def _cut(text: str, share: float) -> tuple[str, str]:
    """A text in two, between words, with about `share` of the words in front."""
    words = text.split(" ")
    # what begins with a space has an empty word in front
    lead = 1 if words[0] == "" else 0
    place = lead + min(max(1, round(share * (len(words) - lead))), len(words) - lead - 1)
    return " ".join(words[:place]), " " + " ".join(words[place:])


def _tokens(text: str, tokenizer: PreTrainedTokenizerBase) -> int:
    return max(1, len(tokenizer(text, add_special_tokens=False)["input_ids"]))
