"""Other ways to ask about the same thing, mined from the prompts of all rows.

A prompt is taken apart into what it asks about (an entity, "Ann Lee") and how it asks (a template,
"What is the home city of ...?"), so that any template can be asked about any entity.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Container, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

from ilp_mlflow.core.texts import Text, last_turn, with_last_turn
from ilp_mlflow.core.values import Sample
from ilp_mlflow.data.matching import answer_key, with_answer

MAX_ENTITY_WORDS = 4
"""Words of the longest span of a prompt that may be its entity."""
MIN_OTHER_SPANS = 5
"""Other spans that must stand in the same place of other prompts."""
MAX_PROMPT_WORDS = 40
"""Words of the longest prompt that is read."""
MAX_PROMPT_CHARACTERS = 400
"""Characters of the longest prompt that is read."""
MIN_LIFT_SHARE = 0.5
"""Share 0..1 of the largest lift among a prompt's spans that is enough to be its entity."""
MIN_ROWS_PER_TEMPLATE = 2
"""Rows per template, on average, below which the prompts are not made from templates."""
MIN_TEMPLATED_SHARE = 0.5
"""Share 0..1 of a stage's rows with a template, below which it is not made from templates."""
PRIOR_PAIRS = 10
"""Pairs of rows with different answers that are added to those seen: few rows show little."""
MIN_FRAME_SHARE = 0.5
"""Share 0..1 of all prompts above which a word in them belongs to their frame and asks nothing."""
GAP = "\0"
"""Stands in a template for the entity."""
WORD = re.compile(r"\w+|[^\w\s]")
WORD_START = re.compile(r"(?<=\s)\S")
"""Where a word begins that is not the first."""


@dataclass(frozen=True)
class Question:
    """A prompt taken apart into its template and its entity."""

    template: Text
    """The prompt with GAP in the place of the entity; of a conversation, in its last turn."""
    entity: str
    """What the prompt asks about."""
    completion: Text
    """The row's completion: other answers are given its form."""

    def about(self, entity: str) -> Text:
        """The same question about another entity."""
        question = last_turn(self.template).replace(GAP, entity)
        return with_last_turn(self.template, question)

    def answered(self, entity: str, answer: str) -> tuple[Text, Text]:
        """The same question about another entity, as a prompt with the completion `answer`."""
        return self.about(entity), with_answer(self.completion, answer)


class Span(NamedTuple):
    """A few consecutive words of a prompt, any of which may be its entity."""

    template: str
    """The prompt with GAP in the place of these words."""
    text: str
    """These words."""
    words: int
    """Their number."""


def mine_questions(samples: Sequence[Sample]) -> dict[str, Question]:
    """Take prompts apart into templates and entities; by sample id, where that can be told.

    The entity is what decides the answer. A span of words may be one when at least
    MIN_OTHER_SPANS others stand in its place in other prompts. In each prompt, the shortest
    span whose rows clearly agree in their answers is nominated; then the prompt's entity is the
    one of its spans that was nominated in most rows. What is asked behind or before other words
    (`I forgot. What is ...?`) is taken apart as it is where it stands alone.

    Left out are stages of which few rows have a template, and all rows where templates hardly
    recur: what varies in free text is no entity.
    """
    spans = _candidates(samples)
    recurring = _in_recurring_places(spans)
    lift = _answer_lift(samples, recurring)
    nominations = Counter[str]()
    for candidates in recurring.values():
        if candidates:
            nominations[_nominate(candidates, lift)] += 1
    questions = _take_apart(samples, spans, nominations)
    questions |= _in_frames(samples, spans, questions)
    questions = _in_templated_stages(samples, questions)
    templates = {question.template for question in questions.values()}
    if len(questions) < MIN_ROWS_PER_TEMPLATE * len(templates):
        return {}
    return questions


def draw_questions(questions: Mapping[str, Question], n: int, rng: random.Random) -> list[Question]:
    """Draw up to `n` questions with different templates; common templates come sooner."""
    by_template: dict[Text, Question] = {}
    rows_by_template = Counter[Text]()
    for question in questions.values():
        by_template[question.template] = question
        rows_by_template[question.template] += 1
    # weighted sampling without replacement: those with the largest u ^ (1 / weight), u uniform in
    # 0..1 (Efraimidis and Spirakis 2006)
    keys = {}
    for template, rows in rows_by_template.items():
        keys[template] = rng.random() ** (1 / rows)
    drawn = sorted(keys, key=lambda template: keys[template], reverse=True)[:n]
    return [by_template[template] for template in drawn]


def _candidates(samples: Sequence[Sample]) -> dict[str, list[Span]]:
    """Every span of each sample's prompt that may be its entity, by sample id."""
    prompts = {s.id: last_turn(s.prompt) for s in samples}
    frame = _frame_words(prompts.values())
    return {id_: _spans(prompt, frame) for id_, prompt in prompts.items()}


def _frame_words(prompts: Collection[str]) -> set[str]:
    """The words, casefolded, that most prompts have (`User: ... Intent:`), and punctuation."""
    rows_by_word = Counter[str]()
    for prompt in prompts:
        rows_by_word.update({word.casefold() for word in WORD.findall(prompt)})
    min_rows = MIN_FRAME_SHARE * len(prompts)
    frame = set()
    for word, rows in rows_by_word.items():
        if rows > min_rows or not word.isalnum():
            frame.add(word)
    return frame


def _spans(prompt: str, frame: Set[str]) -> list[Span]:
    """Every span of up to MAX_ENTITY_WORDS words that leaves something that asks."""
    if len(prompt) > MAX_PROMPT_CHARACTERS or GAP in prompt:
        return []
    words = list(WORD.finditer(prompt))
    if len(words) > MAX_PROMPT_WORDS:
        return []
    asking = [i for i, word in enumerate(words) if word[0].casefold() not in frame]
    if not asking:
        return []
    spans = []
    for first in range(len(words)):
        for last in range(first, min(first + MAX_ENTITY_WORDS, len(words))):
            # without a word outside of both the span and the frame, the template asks nothing
            asks = asking[0] < first or last < asking[-1]
            # an entity neither begins nor ends with punctuation
            if asks and words[first][0].isalnum() and words[last][0].isalnum():
                start, end = words[first].start(), words[last].end()
                template = prompt[:start] + GAP + prompt[end:]
                spans.append(Span(template, prompt[start:end], last - first + 1))
    return spans


def _in_recurring_places(
    spans_by_id: Mapping[str, Sequence[Span]],
) -> dict[str, list[Span]]:
    """Those spans in whose place enough others stand in other prompts."""
    texts_by_template = defaultdict[str, set[str]](set)
    for spans in spans_by_id.values():
        for span in spans:
            texts_by_template[span.template].add(span.text)
    recurring = {}
    for id_, spans in spans_by_id.items():
        recurring[id_] = list[Span]()
        for span in spans:
            # its own text is one of them
            if len(texts_by_template[span.template]) > MIN_OTHER_SPANS:
                recurring[id_].append(span)
    return recurring


def _answer_lift(
    samples: Sequence[Sample], spans_by_id: Mapping[str, Sequence[Span]]
) -> dict[str, float]:
    """How much more often rows with a span agree in their answers than any rows, by its text.

    At least 0: a difference of two shares 0..1 of pairs of rows, see `_agreement`.
    """
    all_answers = Counter[str]()
    answers_by_text = defaultdict[str, Counter[str]](Counter)
    for sample in samples:
        answer = answer_key(sample.answer)
        all_answers[answer] += 1
        # a row counts once for the same words, wherever they stand in its prompt
        for text in {span.text for span in spans_by_id[sample.id]}:
            answers_by_text[text][answer] += 1
    baseline = _agreement(all_answers)
    lift = {}
    for text, answers in answers_by_text.items():
        lift[text] = max(0.0, _agreement(answers) - baseline)
    return lift


def _agreement(answers: Counter[str]) -> float:
    """Share 0..1 of pairs of rows with the same answer, PRIOR_PAIRS pairs without it added."""
    rows = answers.total()
    agreeing_pairs = sum(n * (n - 1) for n in answers.values())
    return agreeing_pairs / (rows * (rows - 1) + PRIOR_PAIRS)


def _nominate(spans: Sequence[Span], lift: Mapping[str, float]) -> str:
    """The shortest of a prompt's spans with nearly the largest lift: its words."""
    min_lift = MIN_LIFT_SHARE * max(lift[span.text] for span in spans)
    deciding = [span for span in spans if lift[span.text] >= min_lift]
    shortest = min(deciding, key=lambda s: (s.words, -lift[s.text], s.text))
    return shortest.text


def _take_apart(
    samples: Sequence[Sample],
    spans_by_id: Mapping[str, Sequence[Span]],
    nominations: Counter[str],
) -> dict[str, Question]:
    """Each prompt's question about the one of its spans with most nominations, if any has."""
    questions = {}
    for sample in samples:
        nominated = [s for s in spans_by_id[sample.id] if nominations[s.text]]
        if nominated:
            # of equals the shortest, then the first in the prompt
            best = max(nominated, key=lambda s: (nominations[s.text], -s.words))
            template = with_last_turn(sample.prompt, best.template)
            questions[sample.id] = Question(template, best.text, sample.completion)
    return questions


def _in_frames(
    samples: Sequence[Sample],
    spans_by_id: Mapping[str, Sequence[Span]],
    questions: Mapping[str, Question],
) -> dict[str, Question]:
    """The questions of prompts that are another template, filled in, with words around it.

    What stands around a question is seen with too few entities to tell which words are one.
    """
    entities: dict[str, set[str]] = {}
    for question in questions.values():
        entities.setdefault(last_turn(question.template), set()).add(question.entity)
    recurring = {template for template, its in entities.items() if len(its) > 1}
    before_gap = {template.partition(GAP)[0] for template in recurring}
    behind_gap = {template.partition(GAP)[2] for template in recurring}
    framed = {}
    for sample in samples:
        # of several the longest, which leaves the least to the frame
        longest, best = "", None
        for span in spans_by_id[sample.id]:
            before, _, behind = span.template.partition(GAP)
            if before not in before_gap and behind not in behind_gap:
                continue
            inner = template_in_frame(span.template, recurring)
            if len(inner) > len(longest):
                longest, best = inner, span
        if best:
            template = with_last_turn(sample.prompt, best.template)
            framed[sample.id] = Question(template, best.text, sample.completion)
    return framed


def template_in_frame(template: str, others: Container[str]) -> str:
    """The longest of `others` that a template begins or ends with, "" for none.

    The other words, a frame, stand in front of it or behind it, never within.
    """
    inner = ""
    for word in WORD_START.finditer(template):
        for part in (template[word.start() :], template[: word.start()].rstrip()):
            if part != template and len(part) > len(inner) and part in others:
                inner = part
    return inner


def _in_templated_stages(
    samples: Sequence[Sample], questions: Mapping[str, Question]
) -> dict[str, Question]:
    """The questions of stages in which at least MIN_TEMPLATED_SHARE of the rows have one."""
    rows = Counter[str]()
    templated_rows = Counter[str]()
    for sample in samples:
        rows[sample.stage] += 1
        if sample.id in questions:
            templated_rows[sample.stage] += 1
    kept = {}
    for sample in samples:
        is_templated = templated_rows[sample.stage] >= MIN_TEMPLATED_SHARE * rows[sample.stage]
        if is_templated and sample.id in questions:
            kept[sample.id] = questions[sample.id]
    return kept
