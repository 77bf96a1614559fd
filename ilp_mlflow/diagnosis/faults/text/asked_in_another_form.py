"""Rows that a model trained elsewhere knows in another form than the one they are asked in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ilp_mlflow.core.errors import ModelError
from ilp_mlflow.core.interfaces import MIN_KNOWN_PROBABILITY, MIN_TAUGHT_SHARE
from ilp_mlflow.core.texts import Text, last_turn
from ilp_mlflow.core.values import Sample, Stage, Subject
from ilp_mlflow.diagnosis.faults.facts import RunFacts
from ilp_mlflow.diagnosis.faults.fault import Fault
from ilp_mlflow.diagnosis.faults.loss.ends_never_raised import is_only_end_wrong
from ilp_mlflow.diagnosis.faults.text.forms import Form, other_forms
from ilp_mlflow.scoring.tokens.encoding import check_encodable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBED = 8
"""Rows of a stage that are asked in other forms."""
MIN_PROBED = 4
"""Rows from which something may be said."""
MOST = 0.75
"""Share 0..1 of them that must be known in the other form, and not as they are asked."""
KNOWN_PER_TOKEN = -0.1
"""Log-probability from which a long answer is known, nats per token: nearly every token is the
first choice then."""


def find_other_form(facts: RunFacts, stage: Stage) -> list[Fault]:
    """The form in which the rows of a stage are known that are not, as they are asked.

    Asked are PROBED unlearned rows of a stage that taught few of its rows. A form counts in which
    the checkpoint knows most of them, and the base hardly any: what the base knew was not trained.
    """
    if facts.context.taught.get(stage.name, 1.0) >= MIN_TAUGHT_SHARE or facts.last_model is None:
        return []
    unlearned = set(facts.unlearned)
    of_stage = [sample for sample in stage.samples if sample.id in unlearned]
    scores = facts.context.last_scores(of_stage)
    rows = [s for s in of_stage if not is_only_end_wrong(scores[s.id])]
    probed = rows[:: max(1, len(rows) // PROBED)][:PROBED]
    if len(probed) < MIN_PROBED:
        return []
    tokenizer = facts.last_model().tokenizer
    by_form = _in_forms(probed, tokenizer)
    checkpoint, base = facts.checkpoint_of(stage), facts.context.checkpoints[0].name
    as_asked = [(sample.prompt, sample.completion) for sample in probed]
    if sum(_known(facts, checkpoint, as_asked, tokenizer)) > (1 - MOST) * len(probed):
        return []
    known = _known_by_form(facts, checkpoint, by_form, tokenizer, least=MOST * len(probed))
    name = max(known, key=lambda name: known[name], default="")
    if not name:
        return []
    if sum(_known(facts, base, by_form[name], tokenizer)) > (1 - MOST) * len(probed):
        return []
    samples = tuple(sample.id for sample in of_stage)
    return [
        Fault(
            kind="asked_in_another_form",
            cause="not_trained",
            reason=f"the rows are known in another form: {name}, {known[name]} of "
            f"{len(probed)} that were tried are answered rightly, as they are asked none or few",
            change="ask in that form (other rows, or --chat-template), or train in this one",
            strength=known[name] / len(probed),
            subject=Subject(kind="stage", name=stage.name),
            samples=samples,
            reasons=dict.fromkeys(
                samples, f"rows of its stage are known in another form than it is asked in: {name}"
            ),
            stops=True,
        )
    ]


def _in_forms(
    samples: Sequence[Sample], tokenizer: PreTrainedTokenizerBase
) -> dict[str, list[tuple[Text, Text]]]:
    """Prompts and completions of samples by the form they are in."""
    by_form: dict[str, list[tuple[Text, Text]]] = {}
    for sample in samples:
        for form in other_forms(sample, tokenizer):
            if _renders(form, sample, tokenizer):
                by_form.setdefault(form.name, []).append((form.prompt, form.completion))
    return by_form


def _renders(form: Form, sample: Sample, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template takes a form: some refuse a system turn."""
    in_form = sample.model_copy(update={"prompt": form.prompt, "completion": form.completion})
    try:
        check_encodable(tokenizer, [in_form])
    except ModelError:
        return False
    return True


def _known_by_form(
    facts: RunFacts,
    checkpoint: str,
    by_form: Mapping[str, Sequence[tuple[Text, Text]]],
    tokenizer: PreTrainedTokenizerBase,
    least: float,
) -> dict[str, int]:
    """How many completions a checkpoint gives in each form, of forms in which it is `least`.

    There are many forms, and answers can be long: as soon as too many of a form's are unknown for
    `least` of them to be known, the rest of it is not asked.
    """
    known = {}
    for name, exchanges in by_form.items():
        may_fail = len(exchanges) - least
        if may_fail < 0:
            continue
        # one more than may be unknown is enough to rule the form out
        first = int(may_fail) + 1
        first_known = sum(_known(facts, checkpoint, exchanges[:first], tokenizer))
        if first_known == 0:
            continue
        n_known = first_known + sum(_known(facts, checkpoint, exchanges[first:], tokenizer))
        if n_known >= least:
            known[name] = n_known
    return known


def _known(
    facts: RunFacts,
    checkpoint: str,
    exchanges: Sequence[tuple[Text, Text]],
    tokenizer: PreTrainedTokenizerBase,
) -> list[bool]:
    """Which of some completions a checkpoint gives, to go by how likely it finds them."""
    logprobs = facts.context.probe.logprobs(checkpoint, exchanges)
    known = []
    for (_, completion), logprob in zip(exchanges, logprobs, strict=True):
        tokens = len(tokenizer(last_turn(completion), add_special_tokens=False)["input_ids"])
        least = min(math.log(MIN_KNOWN_PROBABILITY), KNOWN_PER_TOKEN * tokens)
        known.append(logprob >= least)
    return known
