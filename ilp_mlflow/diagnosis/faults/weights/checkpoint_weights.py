"""Checkpoints whose weights are not what training made of them."""

from __future__ import annotations

from collections.abc import Iterator

from ilp_mlflow.core.interfaces import MIN_TAUGHT_SHARE, Context
from ilp_mlflow.core.values import Subject
from ilp_mlflow.diagnosis.faults.facts import RunFacts
from ilp_mlflow.diagnosis.faults.fault import Fault
from ilp_mlflow.diagnosis.faults.stage_scores import stage_movement
from ilp_mlflow.scoring.models.compared_weights import Comparison
from ilp_mlflow.scoring.models.weight_facts import Copy

COARSE = 0.3
"""Size of an error beside that of what training changed from which it is held to be the cause of
what is lost. Rounding to bfloat16 errs by 0.24 % of a tensor, so a change of 3 % is far from it."""
MAY_BE_TRAINED = 0.7
"""How sure it is that a copy is at fault that may as well be trained on."""
GAINED = 0.1
"""A checkpoint was trained on that has learned more than this share 0..1 of what it lost."""
STEPS_THAT_MOVE = "see that its weights require gradients, and that its steps have a rate above 0"
"""What mends a training that moved nothing."""
MAX_LOSS_LEFT = 0.5
"""Share of the loss of a stage's rows that is left where its weights are as training made them."""
NAMED = 3
"""Tensors that a sentence names."""


def find_weight_faults(facts: RunFacts) -> list[Fault]:
    """Checkpoints that lost what they should have: copies, remade embeddings, adapters apart."""
    return [*_faulty_copies(facts), *_remade_ends(facts), *_adapters_apart(facts)]


def find_still_checkpoints(facts: RunFacts) -> list[Fault]:
    """Checkpoints that do nothing: their adapter does not, or they are the ones before them.

    Where their training was followed, that is what it came to, and stops nothing: other faults say
    why.
    """
    faults = []
    for stage in facts.context.stages:
        name = stage.name
        weights = Subject(kind="checkpoint", name=name)
        if name in facts.weights.idle:
            fault = Fault(
                kind="idle_adapter",
                cause="faulty_checkpoint",
                reason=(
                    "its adapter does nothing: all of its layers leave the base as it is "
                    f"({facts.weights.idle[name]})"
                ),
                change="give the adapter as it is after training, with the adapter_config.json "
                "that it was trained with: this one was saved before, never trained, or scaled to "
                "nothing",
                subject=weights,
            )
        elif name in facts.weights.unchanged:
            fault = Fault(
                kind="unchanged_weights",
                cause="faulty_checkpoint",
                reason=(
                    f"its weights are those of '{facts.weights.unchanged[name]}', bit by bit: it "
                    "does nothing"
                ),
                change="give the folder that the trained model was saved to",
                subject=weights,
            )
        elif _moved_nothing(facts.context, name):
            fault = Fault(
                kind="unmoved_stage",
                cause="not_trained",
                reason="changed nothing for any of its samples",
                change="see that its weights are trained, saved and loaded",
                subject=Subject(kind="stage", name=name),
            )
        else:
            continue
        update = {"samples": _unlearned_of(name, facts), "stops": not facts.followed}
        if facts.followed:
            update |= {"cause": "failed_optimization", "change": STEPS_THAT_MOVE}
        faults.append(fault.model_copy(update=update))
    return faults


def _moved_nothing(context: Context, stage: str) -> bool:
    """Whether a stage left all its samples where they were under an earlier checkpoint."""
    if stage not in [checkpoint.name for checkpoint in context.checkpoints]:
        return False
    movement = stage_movement(context, stage)
    return movement is not None and movement.is_none


def _faulty_copies(facts: RunFacts) -> Iterator[Fault]:
    """Copies that lost what their source had, and those that did not where rows are lost."""
    for copy in facts.weights.copies:
        lost = _lost_between(copy.source, copy.checkpoint, facts)
        subject = Subject(kind="checkpoint", name=copy.checkpoint)
        if copy.reading:
            yield Fault(
                kind="copy_reads_otherwise",
                cause="faulty_checkpoint",
                reason=(
                    f"it reads and ends text otherwise than '{copy.source}', which it is a copy "
                    f"of: another {' and '.join(copy.reading)}"
                ),
                change=f"save it with the tokenizer and generation_config.json of '{copy.source}'",
                strength=0.5,
                subject=subject,
            )
        if not lost or (copy.may_be_trained and _has_learned(copy, len(lost), facts)):
            continue
        what, change = _what_is_lost(copy)
        rows = "1 row was" if len(lost) == 1 else f"{len(lost)} rows were"
        are = "is" if len(lost) == 1 else "are"
        which = "which taught none" if copy.may_be_trained else "which no rows trained"
        blame = "" if copy.may_be_trained else "the copy is at fault, not the training "
        learned = (
            f"{rows} learned under '{copy.source}' and {are} lost in '{copy.checkpoint}', {which}"
        )
        if change:
            yield Fault(
                kind="faulty_copy",
                cause="faulty_checkpoint",
                reason=f"{learned}: {blame}({what})" if blame else f"{learned}: {what}",
                change=change,
                subject=subject,
                samples=lost,
                reasons=dict.fromkeys(
                    lost,
                    f"it was learned under '{copy.source}' and is lost in '{copy.checkpoint}', "
                    f"{which}: {what}",
                ),
                strength=MAY_BE_TRAINED if copy.may_be_trained else 1.0,
                stops=not copy.may_be_trained,
            )
        else:
            yield Fault(
                kind="copy_is_whole",
                cause="faulty_checkpoint",
                reason=f"{learned}, but its weights are not at fault: {what}",
                change="",
                strength=0.0,
                subject=subject,
            )


def _has_learned(copy: Copy, lost: int, facts: RunFacts) -> bool:
    """Whether a copy knows rows that its source does not, so that it was trained on."""
    names = [c.name for c in facts.context.checkpoints]
    before, after = names.index(copy.source), names.index(copy.checkpoint)
    histories = facts.context.histories.values()
    gained = sum(h[before] == "unlearned" and h[after] == "learned" for h in histories)
    return gained > GAINED * lost


def _what_is_lost(copy: Copy) -> tuple[str, str]:
    """What is wrong with a copy, and what mends it; "" for the latter where nothing is."""
    if copy.comparison is None:
        return f"it is quantised ({copy.form})", "quantise it less, or score it unquantised"
    found = copy.comparison
    source = copy.source
    if copy.holds != source:
        return (
            f"it has the weights of '{copy.holds}', without '{source}'",
            f"merge '{source}', too",
        )
    if found.relation == "same" and not copy.settings:
        return _rounding_error(found)
    if found.relation == "same":
        return (
            f"its weights are the same, its config.json has {', '.join(copy.settings)}",
            f"save it with the config.json of '{source}'",
        )
    tensors = _some_of(found.lost)
    texts = {
        "tied": (
            f"its embeddings are one tensor for both ends, those of '{source}' are two: {tensors} "
            "is not what it was",
            "untie the embeddings before merging (tie_word_embeddings: false), and save both",
        ),
        "lost": (
            f"{len(found.lost)} of the {found.changed} tensors that '{source}' changed are the "
            f"base's: {tensors}",
            "merge and save these, too",
        ),
        "base": (
            f"all of the {found.changed} tensors that '{source}' changed are the base's",
            "merge the adapter before the model is saved (merge_and_unload), and save what that "
            "returns",
        ),
        "quantised": (
            f"it is quantised: tensors differ by up to {found.error:.1%} of their size, "
            f"'{source}' had changed them by {found.change:.1%}",
            "keep it in 16 bits, or quantise it to more of them",
        ),
        "scaled": (
            f"only {found.held:.0%} of what '{source}' changed is in it"
            if found.held < 1
            else f"what '{source}' changed is in it {found.held:.2g} times",
            "merge the adapter once, with the lora_alpha, r and use_rslora that it was trained "
            "with",
        ),
        "other_base": (
            f"what '{source}' changed is in it, on another base: all other tensors differ, too",
            "merge the adapter into the base that it was trained on",
        ),
        "other_weights": (
            f"what '{source}' changed is in it, and all matrices are otherwise far from what they "
            f"were, by {found.apart:.0%} of their size or more: it is merged into another base, or "
            "was trained on with other rows",
            "merge the adapter into the base that it was trained on; if it was trained on, give "
            "the rows of that, too",
        ),
    }
    return texts[found.relation]


def _rounding_error(found: Comparison) -> tuple[str, str]:
    """Whether rounding the same weights may have lost rows."""
    sizes = (
        f"{found.tensors} tensors, kept in {found.dtype}, differ by {found.error:.2g} of their "
        f"size at most, training had changed them by {found.change:.2g}"
    )
    if found.change and found.error > COARSE * found.change:
        return f"rounded to {found.dtype}: {sizes}", "merge and keep it in float32"
    return f"{sizes}; the rows may have been close to being unlearned", ""


def _some_of(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:NAMED])
    return f"{shown}, ..." if len(names) > NAMED else shown


def _remade_ends(facts: RunFacts) -> Iterator[Fault]:
    """Embeddings that were made anew and not trained since: the checkpoint knows hardly a row."""
    stages = facts.context.taught
    for name, tensors in facts.weights.remade.items():
        if stages.get(name, 1.0) >= MIN_TAUGHT_SHARE or _raised_its_answers(facts.context, name):
            continue
        yield Fault(
            kind="remade_embedding",
            cause="faulty_checkpoint",
            reason=(
                f"nothing of the models before is left in {' and '.join(tensors)}, as it is in all "
                "other weights: made anew, by a resize or by loading with ignore_mismatched_sizes"
            ),
            change="save the model as it is after training; resize its embeddings before that, "
            "with resize_token_embeddings, which keeps the rows there are",
            subject=Subject(kind="checkpoint", name=name),
            samples=_unlearned_of(name, facts),
            stops=True,
        )


def _raised_its_answers(context: Context, stage: str) -> bool:
    """Whether a stage took half of the loss off its rows, as no model without its embedding can.

    A base that hardly was trained may be trained so far that nothing of its embedding is left.
    """
    movement = stage_movement(context, stage)
    return movement is not None and movement.after <= MAX_LOSS_LEFT * movement.before


def _adapters_apart(facts: RunFacts) -> Iterator[Fault]:
    """Adapters on the base without the one of the stage before: nothing of that was forgotten."""
    trained = {stage.name for stage in facts.context.stages}
    for name, earlier in facts.weights.apart.items():
        if "@" in name:
            continue
        lost = _lost_between(earlier, name, facts)
        if not lost:
            continue
        said = "which its own rows say that it was trained on"
        change = f"train it on '{earlier}', or diagnose both apart"
        if name not in trained:
            said = "files do not say what it was trained on, and it has no rows to tell"
            change = f"if it was trained on '{earlier}', write --checkpoint {name}={earlier}+FOLDER"
        yield Fault(
            kind="adapter_apart",
            cause="faulty_checkpoint",
            reason=(
                f"its adapter sits on the base without the one of '{earlier}', {said}: "
                f"{len(lost)} rows that '{earlier}' had learned are not forgotten, they were never "
                "in it"
            ),
            change=change,
            subject=Subject(kind="checkpoint", name=name),
            samples=lost,
            stops=True,
        )


def _unlearned_of(stage: str, facts: RunFacts) -> tuple[str, ...]:
    """Ids of the unlearned samples of a stage."""
    samples = facts.context.samples
    return tuple(id_ for id_ in facts.unlearned if samples[id_].stage == stage)


def _lost_between(before: str, after: str, facts: RunFacts) -> tuple[str, ...]:
    """Ids of unlearned samples that one checkpoint had and a later one did not."""
    names = [c.name for c in facts.context.checkpoints]
    first, second = names.index(before), names.index(after)
    lost = []
    for id_ in facts.unlearned:
        history = facts.context.histories[id_]
        if history[first] == "learned" and history[second] == "unlearned":
            lost.append(id_)
    return tuple(lost)
