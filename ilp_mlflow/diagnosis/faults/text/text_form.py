"""Texts that training had in another form than the rows, or than they are asked in."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from ilp_mlflow.core.interfaces import MIN_TAUGHT_SHARE
from ilp_mlflow.core.texts import Conversation
from ilp_mlflow.core.values import Sample, Stage, Subject
from ilp_mlflow.diagnosis.faults.facts import RunFacts
from ilp_mlflow.diagnosis.faults.fault import Fault
from ilp_mlflow.diagnosis.faults.text.asked_in_another_form import find_other_form
from ilp_mlflow.training.accounts.row_account import RowAccount
from ilp_mlflow.training.checks.finding import excerpt

DROPPED_TURN = re.compile(r"messages\[(\d+)\]\.([^:]+): ")
"""What an account says of a turn that its template leaves out."""
ADDED_STRENGTH = 0.3
"""How sure it is that what a template adds has to do with what is not learned."""
MAX_TEXTS = 2
"""Texts of a template's own that are told of a stage."""
DROPPED_STRENGTH = 0.7
"""How sure it is that an answer is not learned since a part of its text was left out: what is left
was trained, and may be hard without it."""


def find_text_faults(facts: RunFacts) -> list[Fault]:
    """Ends that stop nothing, texts that the template drops, rows that are known otherwise.

    What a template adds is to be known where a stage taught little, and no row's cause: it stands
    before every row alike, when it is trained and when it is asked.
    """
    faults = _ends_that_do_not_stop(facts)
    for stage in facts.context.stages:
        faults += _dropped_from_answers(facts, stage)
        faults += _dropped_from_prompts(facts, stage)
        faults += _added(facts, stage)
        # where the training was followed, rows are asked as they were trained
        if not facts.followed:
            faults += find_other_form(facts, stage)
    return faults


def _ends_that_do_not_stop(facts: RunFacts) -> list[Fault]:
    """Answers, learned ones too, that end with a token at which the model goes on."""
    accounts = facts.accounts.values()
    faulty = [account for account in accounts if account.end_token and not account.end_stops]
    if not faulty or facts.last_model is None:
        return []
    token = faulty[0].end_token
    ends = ", ".join(facts.last_model().end_tokens) or "none"
    return [
        Fault(
            kind="end_does_not_stop",
            cause="faulty_checkpoint",
            reason=f"nothing stops the answers of {len(faulty)} of {len(accounts)} rows: {token}, "
            f"which ends them, is no end token of the model (its end tokens: {ends})",
            change=f"set eos_token to {token}, or add it to eos_token_id in generation_config.json",
            subject=Subject(kind="checkpoint", name=facts.context.checkpoints[-1].name),
        )
    ]


def _dropped_from_answers(facts: RunFacts, stage: Stage) -> list[Fault]:
    """Rows of whose answer the template leaves something out, such as what was reasoned."""
    dropped = {}
    for sample in stage.samples:
        said = [text for text in _dropped(facts, sample) if _turn(text) == _answer_place(sample)]
        if said:
            dropped[sample.id] = said[0]
    if not dropped:
        return []
    samples = tuple(id_ for id_ in facts.unlearned if id_ in dropped)
    first = next(iter(dropped.values()))
    return [
        Fault(
            kind="template_drops",
            cause="not_trained",
            reason=f"the chat template leaves text out of {len(dropped)} of {len(stage.samples)} "
            f"answers, such as {first}",
            change="take a chat template that renders it (--chat-template), or move it into the "
            "content",
            strength=DROPPED_STRENGTH,
            subject=Subject(kind="stage", name=stage.name),
            samples=samples,
            reasons={
                id_: f"the chat template leaves out a part of its answer, {dropped[id_]}"
                for id_ in samples
            },
        )
    ]


def _dropped_from_prompts(facts: RunFacts, stage: Stage) -> list[Fault]:
    """Rows of whose question the template leaves something out; to be known, and no row's cause.

    What was reasoned in earlier turns is left out by rule, and is no fault.
    """
    dropped = []
    for sample in stage.samples:
        dropped += [text for text in _dropped(facts, sample) if _is_of_question(text, sample)][:1]
    if not dropped:
        return []
    return [
        Fault(
            kind="template_drops",
            cause="not_trained",
            reason=f"the chat template leaves text out of the prompts of {len(dropped)} of "
            f"{len(stage.samples)} rows, such as {dropped[0]}",
            change="take a chat template that renders it (--chat-template), or move it into the "
            "content",
            subject=Subject(kind="stage", name=stage.name),
        )
    ]


def _added(facts: RunFacts, stage: Stage) -> list[Fault]:
    """Texts of the template's own in rows of a stage that taught few of them."""
    if facts.context.taught.get(stage.name, 1.0) >= MIN_TAUGHT_SHARE:
        return []
    rows_by_text = Counter[str]()
    for sample in stage.samples:
        if sample.id in facts.accounts:
            rows_by_text.update(set(facts.accounts[sample.id].added))
    faults = []
    for text, rows in rows_by_text.most_common(MAX_TEXTS):
        reason = (
            f"the chat template puts {excerpt(text)} into {rows} of {len(stage.samples)} rows, "
            "which do not have it"
        )
        if not facts.followed:
            reason += "; whether they were trained with it is not known"
        faults.append(
            Fault(
                kind="template_adds",
                cause="not_trained",
                reason=reason,
                change="where that is not meant, give the rows a system turn, or take another "
                "template (--chat-template)",
                strength=ADDED_STRENGTH,
                subject=Subject(kind="stage", name=stage.name),
            )
        )
    return faults


def _dropped(facts: RunFacts, sample: Sample) -> Sequence[str]:
    account: RowAccount | None = facts.accounts.get(sample.id)
    return () if account is None else account.dropped


def _answer_place(sample: Sample) -> int:
    """The number of the turn that is to be said, among all of a row."""
    if isinstance(sample.prompt, str):
        return 0
    assert isinstance(sample.completion, Conversation)
    return len(sample.prompt.turns) + len(sample.completion.turns) - 1


def _turn(dropped: str) -> int | None:
    found = DROPPED_TURN.match(dropped)
    return None if found is None else int(found[1])


def _is_of_question(dropped: str, sample: Sample) -> bool:
    """Whether what is left out is a tool, or a text that no assistant said."""
    if dropped.startswith("tools["):
        return True
    place = _turn(dropped)
    if place is None or isinstance(sample.prompt, str) or place >= len(sample.prompt.turns):
        return False
    return sample.prompt.turns[place].role != "assistant"
