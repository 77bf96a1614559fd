"""Rows with tokens whose weights no training touched."""

from __future__ import annotations

from collections.abc import Sequence

from ilp_mlflow.core.texts import last_turn
from ilp_mlflow.core.values import Subject
from ilp_mlflow.diagnosis.faults.facts import RunFacts
from ilp_mlflow.diagnosis.faults.fault import Fault
from ilp_mlflow.diagnosis.faults.text.last_model import LastModel
from ilp_mlflow.training.checks.trained_tokens import TRAIN_NEW_TOKENS
from ilp_mlflow.training.checks.vocabulary import first_in, named

MAX_LEARNED = 0.2
"""Share 0..1 of the rows with such a token that may be learned: where more are, it is no
obstacle, since a model may tell tokens by weights that nobody trained."""
IN_ANSWER, IN_PROMPT = 0.95, 0.6
"""Strength where the token is to be said, and where it is only read."""


def find_untrained_tokens(facts: RunFacts) -> list[Fault]:
    """Rows with tokens whose weights no training touched, or for which the model has none."""
    if facts.last_model is None or not facts.unlearned or not facts.accounts:
        return []
    model = facts.last_model()
    added = list(model.tokenizer.get_added_vocab())
    used = _used_in(facts, facts.unlearned, added)
    if not used:
        return []
    ids = {token: int(model.tokenizer.convert_tokens_to_ids(token)) for token in used}
    beyond = [token for token, id_ in ids.items() if id_ >= model.embedding_rows]
    untrained = model.untrained([token for token in used if token not in beyond])
    return [
        *_without_weights(facts, beyond, model),
        *_untrained(facts, untrained, model),
    ]


def _untrained(facts: RunFacts, tokens: Sequence[str], model: LastModel) -> list[Fault]:
    """Faults of the rows that are to say such a token, and of those that have it in the prompt."""
    to_say = _in_answers(facts, tokens)
    to_read = {id_: found for id_, found in _in_rows(facts, tokens).items() if id_ not in to_say}
    faults = []
    for rows, strength in ((to_say, IN_ANSWER), (to_read, IN_PROMPT)):
        unlearned = [id_ for id_ in facts.unlearned if id_ in rows]
        if not unlearned or _learned_share(facts, rows) > MAX_LEARNED:
            continue
        what = "the adapter does not train" if model.has_adapter else "training left as they were"
        of_rows = list(dict.fromkeys(token for id_ in unlearned for token in rows[id_]))
        faults.append(
            Fault(
                kind="untrained_tokens",
                cause="not_trained",
                reason=f"the new tokens {named(of_rows)} have weights that {what}",
                change=TRAIN_NEW_TOKENS if model.has_adapter else "train the embedding and head",
                strength=strength,
                subject=Subject(kind="checkpoint", name=facts.context.checkpoints[-1].name),
                samples=tuple(unlearned),
                reasons={
                    id_: f"its new tokens {named(rows[id_])} have weights that {what}"
                    for id_ in unlearned
                },
            )
        )
    return faults


def _without_weights(facts: RunFacts, tokens: Sequence[str], model: LastModel) -> list[Fault]:
    """Rows with tokens that the tokenizer has and the embedding has no row for."""
    rows = _in_rows(facts, tokens)
    unlearned = tuple(id_ for id_ in facts.unlearned if id_ in rows)
    if not unlearned:
        return []
    return [
        Fault(
            kind="beyond_the_embedding",
            cause="not_trained",
            reason=f"the model has {model.embedding_rows} embeddings, and none for {named(tokens)}",
            change="resize the embedding (model.resize_token_embeddings) before training, or take "
            "the base's tokenizer",
            subject=Subject(kind="checkpoint", name=facts.context.checkpoints[-1].name),
            samples=unlearned,
            reasons={
                id_: f"the model has no embedding for its tokens {named(rows[id_])}"
                for id_ in unlearned
            },
        )
    ]


def _used_in(facts: RunFacts, ids: Sequence[str], tokens: Sequence[str]) -> list[str]:
    """Those of some tokens that stand in the rows of these ids, as the model sees them."""
    text = "\n".join(_rendered(facts, id_) for id_ in ids)
    return [token for token in tokens if token in text]


def _in_rows(facts: RunFacts, tokens: Sequence[str]) -> dict[str, list[str]]:
    """Those of some tokens that each row has, by id, of the rows that have one."""
    rows = {}
    for id_ in facts.context.samples:
        text = _rendered(facts, id_)
        if first_in(tokens, text):
            rows[id_] = [token for token in tokens if token in text]
    return rows


def _in_answers(facts: RunFacts, tokens: Sequence[str]) -> dict[str, list[str]]:
    """The same of answers alone, with the token that ends them."""
    rows = {}
    for id_, sample in facts.context.samples.items():
        text = last_turn(sample.completion)
        account = facts.accounts.get(id_)
        if account is not None and account.end_token:
            text += account.end_token
        if first_in(tokens, text):
            rows[id_] = [token for token in tokens if token in text]
    return rows


def _rendered(facts: RunFacts, id_: str) -> str:
    account = facts.accounts.get(id_)
    return "" if account is None else "".join(segment.text for segment in account.segments)


def _learned_share(facts: RunFacts, rows: dict[str, list[str]]) -> float:
    statuses = [facts.context.verdicts[id_].status for id_ in rows]
    return statuses.count("learned") / len(statuses)
