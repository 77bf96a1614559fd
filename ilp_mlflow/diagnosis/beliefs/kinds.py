"""Kinds of questions: samples that ask the same of different things, or answer in one shape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from ilp_mlflow.core.texts import Text, last_turn, with_last_turn
from ilp_mlflow.core.values import Sample
from ilp_mlflow.data.lexical import text_shape
from ilp_mlflow.data.similarity import similar_rows
from ilp_mlflow.diagnosis.beliefs.templates import GAP, Question, template_in_frame

SAME_RELATION = 0.7
"""Cosine 0..1 of two templates from which they ask for the same relation: `capital`."""
NEIGHBOURS = 20
"""Templates that one is compared with, the most similar ones."""
MIN_SHARED_ENTITIES = 3
"""Things that two kinds must both ask about to be about the same things: countries."""
MIN_FRAMED = 2
"""Templates that must stand both alone and with the same words around them to show a frame."""


class Kind(NamedTuple):
    """A kind of question, as a key."""

    template: Text
    """What most of the samples ask, with GAP for the thing; "" where they have no templates."""
    is_chat: bool = False
    """Whether the samples are conversations: text and conversations are no examples of another."""
    stage: str = ""
    """Of samples without a template, their stage,"""
    shape: str = ""
    """and what their answers look like: `Aa` is a name, `0` a number."""


def kinds_of(samples: Sequence[Sample], questions: Mapping[str, Question]) -> dict[str, Kind]:
    """The kind of each sample's question, by sample id; `questions` are by sample id, too.

    Templates with most of their telling words in common are wordings of one relation and one kind.
    One in a frame (`I forgot. What is ...?`) is of the kind that it is of without the frame.
    """
    templates = _narrow_templates({s.id: questions[s.id] for s in samples if s.id in questions})
    relations = _relations(list(templates.values()))
    kinds = {}
    for sample in samples:
        if sample.id in questions:
            template = relations[templates[sample.id]]
            kinds[sample.id] = Kind(template, is_chat(sample))
        else:
            shape = text_shape(sample.answer.strip())
            kinds[sample.id] = Kind("", is_chat(sample), sample.stage, shape)
    return kinds


def _narrow_templates(questions: Mapping[str, Question]) -> dict[str, Text]:
    """The template of each question, with the first word of its entity where it is of the template.

    Of "opposite of hot", "opposite of wet", and "capital of Peru", all asked with "What is the
    ...?", the first word recurs with another rest: it says what is asked rather than of what.
    """
    entities: dict[tuple[Text, str], set[str]] = {}
    for question in questions.values():
        first, _, rest = question.entity.casefold().partition(" ")
        entities.setdefault((question.template, first), set()).add(rest)
    templates = {}
    for id_, question in questions.items():
        first, _, rest = question.entity.partition(" ")
        templates[id_] = question.template
        if rest and len(entities[question.template, first.casefold()]) > 1:
            words = last_turn(question.template).replace(GAP, f"{first} {GAP}")
            templates[id_] = with_last_turn(question.template, words)
    return templates


def is_chat(sample: Sample) -> bool:
    """Whether a sample is a conversation, or else text."""
    return not isinstance(sample.prompt, str)


def _relations(templates: Sequence[Text]) -> dict[Text, Text]:
    """For each template the most frequent one that asks for the same relation."""
    plain = without_frames(set(templates))
    frequent = [template for template, _ in Counter(plain[t] for t in templates).most_common()]
    rows = [bare(template) for template in frequent]
    relations: dict[Text, Text] = {}
    similar = similar_rows(rows, rows, NEIGHBOURS, SAME_RELATION)
    for template, alike in zip(frequent, similar, strict=True):
        places = sorted(row.place for row in alike)
        # a more frequent one comes first, and is a relation by itself
        first = next((p for p in places if relations.get(frequent[p]) == frequent[p]), None)
        relations[template] = template if first is None else frequent[first]
    return {template: relations[plain[template]] for template in plain}


def without_frames(templates: Collection[Text]) -> dict[Text, Text]:
    """Each template without the words around it that others have around theirs, too.

    A frame is what stands in front of or behind at least MIN_FRAMED templates that also stand
    alone.
    """
    alone = {last_turn(template) for template in templates}
    framed: dict[tuple[str, str], set[str]] = {}
    for words in alone:
        inner = template_in_frame(words, alone)
        if inner:
            front, _, behind = words.partition(inner)
            framed.setdefault((front, behind), set()).add(inner)
    frames = [frame for frame, inner in framed.items() if len(inner) >= MIN_FRAMED]
    # the longest first: one may begin with another
    frames.sort(key=lambda frame: (-len(frame[0]) - len(frame[1]), frame))
    plain = {}
    for template in templates:
        words = _inside(last_turn(template), frames)
        plain[template] = with_last_turn(template, words)
    return plain


def _inside(words: str, frames: Sequence[tuple[str, str]]) -> str:
    """The words of a template inside the first of `frames` around it; all where there is none."""
    for front, behind in frames:
        inside = words.removeprefix(front).removesuffix(behind)
        if GAP in inside and len(inside) == len(words) - len(front) - len(behind):
            return inside
    return words


def bare(template: Text) -> Sample:
    """A row with the words of a template for its prompt, without any thing that it asks about."""
    words = with_last_turn(template, last_turn(template).replace(GAP, " "))
    return Sample(id="", stage="", prompt=words, completion="")


def others_about_the_same(
    kind_of: Mapping[str, Kind], questions: Mapping[str, Question], n: int
) -> dict[Kind, list[Kind]]:
    """For each kind up to `n` others, with most rows first, that ask about the same things.

    These have MIN_SHARED_ENTITIES entities in common with it, or with a kind that asks about one of
    its entities: of a kind with few rows that is the only way to tell what it is about.
    """
    entities: dict[Kind, set[str]] = {}
    rows = Counter[Kind]()
    kinds_about: dict[str, set[Kind]] = {}
    for id_, question in questions.items():
        kind, entity = kind_of[id_], question.entity.casefold()
        entities.setdefault(kind, set()).add(entity)
        kinds_about.setdefault(entity, set()).add(kind)
        rows[kind] += 1
    akin = {kind: _sharing(kind, entities) for kind in entities}
    others = {}
    for kind, own in entities.items():
        found = set(akin[kind])
        for entity in own:
            for about in kinds_about[entity]:
                found |= {about, *akin[about]}
        found.discard(kind)
        in_order = [other for other, _ in rows.most_common() if other in found]
        others[kind] = [other for other in in_order if other.is_chat == kind.is_chat][:n]
    return others


def _sharing(kind: Kind, entities: Mapping[Kind, set[str]]) -> set[Kind]:
    """The kinds with MIN_SHARED_ENTITIES entities in common with one."""
    own = entities[kind]
    return {other for other, its in entities.items() if len(own & its) >= MIN_SHARED_ENTITIES}
