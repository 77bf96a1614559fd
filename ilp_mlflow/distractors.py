"""Wrong options for a sample: those given with it, answers to similar prompts, models' own answers, edits of the right one."""

from __future__ import annotations

import hashlib
import itertools
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ilp_mlflow.edits import NUMBER, UNSPACED, WORD, Words, collect, edits, number, shape
from ilp_mlflow.types import Sample, Text

if TYPE_CHECKING:
    import numpy as np

POOL = 10_000
"""Answers of a stage, at most, that its samples draw from."""
LONG = 20
"""Words from which an answer is long: answers to other prompts are then no rivals, but small changes are."""
PROMPT = 2_000
"""Characters at the end of a prompt that are compared with other prompts."""
CHUNK = 256
"""Samples compared with the pool at a time."""

LABEL = re.compile(r"\s*[(\[]?([A-Ja-j0-9])[.):\]]\s+(?=\S)")
LETTER = re.compile(r"\s*[(\[]?([A-J])[.)\]]?\s*")
SEQUENCES = ("ABCDEFGHIJ", "abcdefghij", "123456789", "0123456789")
MARKS = (  # sentence punctuation and quotes of many scripts; operators and brackets mean something
    r".,;:!?\u2026\u00bf\u00a1\u3002\uff0c\u3001\uff1b\uff1a\uff01\uff1f\u061f\u060c\u061b"
    r"\"'`\u00b4\u2018-\u201f\u00ab\u00bb\u300c-\u300f"
)
PUNCTUATION = re.compile(rf"(?<=\d)([.,:])(?=\d)|[{MARKS}]")
ENDS = re.compile(rf"^[{MARKS}]+|[{MARKS}]+$")
HYPHEN = re.compile(r"(?<=[^\W\d])[-\u2010\u2011](?=[^\W\d])")
GLUE = re.compile(r"(?<!\d) | (?!\d)")
ARTICLE = re.compile(r"\b(?:a|an|the) (?=\S)")
NEGATIONS = frozenset({"not", "no", "non", "never", "without"})
TOKEN = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+|[^\w\s]")


def distractors(
    samples: Iterable[Sample],
    n: int,
    seed: int,
    ask: Callable[[Sequence[Sample]], Mapping[str, Sequence[str]]] | None = None,
) -> Mapping[str, tuple[str, ...]]:
    """Up to `n` wrong options by sample id; of given options all are kept, and no others added.

    Else they are, in this order, answers of the same kind and about the same length to the most similar prompts of
    the stage, what `ask` says models answer (it is called once at most, with the samples that lack options), and
    minimal edits of the answer. A long answer takes edits first and never an answer to another prompt. No option is
    equivalent to an answer to the same prompt or to another option. They depend on the seed and on the set of samples,
    not on its order.
    """
    samples = sorted(samples, key=lambda s: s.id)
    rights = defaultdict[tuple[str, str], _Right](_Right)
    for sample in samples:
        rights[sample.stage, _same(sample.prompt)].add(sample.answer)
    choices = [_Choice(sample, rights[sample.stage, _same(sample.prompt)], n) for sample in samples]
    stages = defaultdict[str, list[_Choice]](list)
    for choice in choices:
        if given := choice.sample.options:
            choice.fill(_aligned(given, choice.sample.answer), len(given))
        if not choice.found and n:
            stages[choice.sample.stage].append(choice)
    words = dict[str, Words]()
    for stage, open_ in stages.items():
        pool = sorted((s for s in samples if s.stage == stage), key=lambda s: _hash(f"{seed}/{s.id}"))[:POOL]
        words[stage] = collect(s.answer for s in pool)
        _fill_from_neighbours([c for c in open_ if not c.long], pool, seed)
        for choice in open_:
            if choice.long:
                choice.fill(edits(choice.sample.answer, words[stage], f"{seed}/{choice.sample.id}"))
    lacking = [c for open_ in stages.values() for c in open_ if len(c.found) < n]
    said = ask([c.sample for c in lacking]) if ask and lacking else {}
    for choice in lacking:
        choice.fill(map(_first_line, said.get(choice.sample.id, ())), apart=True)
        choice.fill(edits(choice.sample.answer, words[choice.sample.stage], f"{seed}/{choice.sample.id}"))
    return {c.sample.id: tuple(c.found.values()) for c in choices}


class _Right:
    """The answers to one prompt."""

    def __init__(self) -> None:
        self.words = dict[str, str]()
        self._apart = dict[str, bool]()

    def add(self, answer: str) -> None:
        words = _words(answer)
        self.words[_key(words)] = words

    def apart(self, words: str) -> bool:
        """`words` neither say more nor less than an answer."""
        if words not in self._apart:
            self._apart[words] = not any(_within(words, own) or _within(own, words) for own in self.words.values())
        return self._apart[words]


class _Choice:
    """A sample, up to `n` wrong options found for it, by what tells them apart."""

    def __init__(self, sample: Sample, right: _Right, n: int) -> None:
        self.sample, self.right, self.n = sample, right, n
        self.found = dict[str, str]()
        self.long = len(WORD.findall(sample.answer)) > LONG

    def fill(self, options: Iterable[str], n: int | None = None, apart: bool = False) -> None:
        """Take wrong `options` in turn, those `apart` from the answers only, until there are `n`."""
        options, n = iter(options), self.n if n is None else n
        while len(self.found) < n and (option := next(options, None)) is not None:
            words = _words(option)
            key = _key(words)
            if key and key not in self.right.words and key not in self.found and (not apart or self.right.apart(words)):
                self.found[key] = option


def _fill_from_neighbours(choices: Sequence[_Choice], pool: Iterable[Sample], seed: int) -> None:
    """Give every choice the answers of its kind and about its length from the prompts most similar to its own."""
    short = (s for s in pool if len(WORD.findall(s.answer)) <= LONG)
    rows = sorted({(_key(_words(s.answer)), s.answer, _text(s.prompt)) for s in short})
    if not choices or not rows:
        return
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer

    starts = [i for i, row in enumerate(rows) if i == 0 or row[0] != rows[i - 1][0]]
    places, answers = {rows[start][0]: i for i, start in enumerate(starts)}, [rows[start][1] for start in starts]
    vectorizer = TfidfVectorizer(analyzer=_tokens, min_df=min(2, len(rows)), dtype=np.float32)
    prompts = vectorizer.fit_transform([row[2] for row in rows]).T.tocsr()
    numbers = {form: i for i, form in enumerate(sorted({_form(answer) for answer in answers}))}
    kinds, forms, lengths = _features(answers, numbers)
    hashes = np.array([_hash(key) for key in places], np.uint64)
    rights = {id(c.right): c.right for c in choices}
    correct = {i: [places[key] for key in right.words if key in places] for i, right in rights.items()}
    for first in range(0, len(choices), CHUNK):
        chunk = choices[first : first + CHUNK]
        similarity = (vectorizer.transform([_text(c.sample.prompt) for c in chunk]) @ prompts).toarray()
        similarity = np.maximum.reduceat(similarity, starts, axis=1).round(2)
        kind, form, length = _features([c.sample.answer for c in chunk], numbers)[:, :, None]
        own = np.array([_hash(f"{seed}/{c.sample.id}") for c in chunk], np.uint64)[:, None]
        ties = ((hashes ^ own) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(11)) * (0.005 / 2**53)
        fits = (kind == kinds) & (length <= 2 * lengths) & (lengths <= 2 * length)
        rank = np.where(fits, similarity + 2.0 * (form == forms) + ties, -1.0)
        for choice, row in zip(chunk, rank, strict=True):
            row[correct[id(choice.right)]] = -1.0
            choice.fill((answers[i] for i in _descending(row, 8 * choice.n)), apart=True)


def _features(answers: Sequence[str], forms: Mapping[str, int]) -> np.ndarray:
    """Kind, number of the form and length in characters, one row each."""
    import numpy as np

    found = [(_kind(answer), forms.get(_form(answer), -1), len(_bare(answer))) for answer in answers]
    return np.array(found).T


def _kind(answer: str) -> int:
    """0 number, 1 name (half of its words are capitalised), 2 other text."""
    words = shape(_bare(answer)).split()
    if next((c for word in words for c in word if c in "0Aa"), "") == "0":
        return 0
    return 1 if 2 * sum("A" in word for word in words) >= len(words) else 2


def _form(answer: str) -> str:
    """The shape of `answer`, words of one shape in a row and lower-case ones in the middle told once or not at all."""
    words = shape(_bare(answer)).split()
    kept = [word for i, word in enumerate(words) if word != "a" or i in (0, len(words) - 1)]
    return " ".join(word for word, _ in itertools.groupby(kept))


def _descending(values: np.ndarray, first: int) -> Iterator[int]:
    """Places of the values >= 0, largest value first; the `first` ones are found without sorting the rest."""
    import numpy as np

    if first < len(values):
        top = np.argpartition(-values, first)[:first]
        yield from (int(i) for i in top[np.argsort(-values[top])] if values[i] >= 0)
        values[top] = -1.0
    yield from (int(i) for i in np.argsort(-values, kind="stable") if values[i] >= 0)


def _aligned(options: Sequence[str], answer: str) -> Sequence[str]:
    """`options` with labels such as `A.` where `answer` has one, and without where it has none."""
    labels = "".join(m[1] if (m := LABEL.match(option)) else " " for option in options)
    if any(sequence.startswith(labels) for sequence in SEQUENCES):
        options = [_bare(option) for option in options]
    keys, said = [_key(_words(option)) for option in options], _key(_words(answer))
    if (label := LABEL.match(answer)) and said in keys:
        at = keys.index(said)
    elif said not in keys and (label := LETTER.fullmatch(answer)):
        at = SEQUENCES[0].index(label[1])
    else:
        return options
    alone = label.re is LETTER
    for sequence in SEQUENCES:
        if sequence[at : at + 1] == label[1] and at < len(options) <= len(sequence):
            before, after = answer[: label.start(1)], answer[label.end(1) : label.end()]
            return [before + sequence[i] + after + ("" if alone else option.strip()) for i, option in enumerate(options)]
    return options


def _words(answer: str) -> str:
    """What `answer` says: its words in lower case without label, sentence punctuation and articles."""
    text = unicodedata.normalize("NFC", _bare(answer)).casefold().replace("\u2212", "-")
    text = HYPHEN.sub(" ", PUNCTUATION.sub(r"\1", NUMBER.sub(_value, re.sub(r"[$\u20ac\u00a3\u00a5](?=[\d.])", "", text))))
    return ARTICLE.sub("", " ".join(text.split())) or "".join(answer.split())


def _value(match: re.Match[str]) -> str:
    value, decimals = number(match)
    digits = str(value).zfill(decimals + 1)
    return digits[: len(digits) - decimals] + ("." + digits[len(digits) - decimals :] if decimals else "")


def _key(words: str) -> str:
    """`words` without the white space that tells nothing apart."""
    return GLUE.sub("", words)


def _within(less: str, more: str) -> bool:
    """The words of `less` are a stretch of those of `more`, which adds no negation."""
    return f" {less} " in f" {more} " and not NEGATIONS & ({*more.split()} - {*less.split()})


def _bare(option: str) -> str:
    label = LABEL.match(option)
    return option[label.end() if label else 0 :].strip()


def _first_line(answer: str) -> str:
    return next((line for line in (line.strip(" \t*`#_") for line in answer.splitlines()) if line), "")


def _text(prompt: Text) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(turn.content for turn in prompt)


def _same(prompt: Text) -> str:
    """Equal for prompts that differ in case, white space and punctuation at the ends only."""
    text = "".join(_text(prompt).casefold().split())
    return ENDS.sub("", text) or text


def _tokens(prompt: str) -> list[str]:
    return ["", *TOKEN.findall(prompt[-PROMPT:].casefold())]


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
