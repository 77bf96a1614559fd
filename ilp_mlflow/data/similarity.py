"""Which prompts are similar, and what is answered to them, by TF-IDF over their words."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ilp_mlflow.core.values import Sample
from ilp_mlflow.data.lexical import UNSPACED, text_shape
from ilp_mlflow.data.matching import answer_key, prompt_text, without_label

if TYPE_CHECKING:
    import numpy as np

MAX_PROMPT_CHARACTERS = 2_000
"""Characters at the end of a prompt that are compared with other prompts."""
MAX_WORDS = 8
"""Words of a prompt that are compared: the rarest tell what it asks, the others slow a search."""
CHUNK_SIZE = 256
"""Samples compared with the pool at a time."""
FIRST_RANKED = 32
"""Answers that are ranked for a sample before all others are."""
MIN_SIMILARITY = 0.3
"""Cosine from which two prompts are similar."""
MAX_LENGTH_RATIO = 2
"""An answer at most so many times as long as another is about as long."""
TOKEN = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+|[^\w\s]")
"""A word, a character of an unspaced script, or a mark."""
NO_WORD = ""
"""A token that every prompt has, so that one without words has a vector, too."""
KIND_CHARACTER = re.compile("[0Aa]")
"""In the shape of a text, see `text_shape`: its first digit or letter."""
NUMBER_KIND, NAME_KIND, TEXT_KIND = range(3)
"""Kinds of answers: a number comes first, half of the words are capitalised, all others."""
GOLDEN_RATIO = 0x9E3779B97F4A7C15
"""2**64 over the golden ratio: a factor that spreads a hash over all 64 bits."""


class SimilarRow(NamedTuple):
    """A row whose prompt is similar to another prompt."""

    place: int
    """In the pool, from 0."""
    cosine: float
    """Similarity of the prompts, 0..1."""


def nearest_answers(
    samples: Sequence[Sample], pool: Iterable[Sample], seed: int
) -> Iterator[Iterator[str]]:
    """For each sample in turn, the distinct answers of `pool` that could stand in for its own.

    These are of the same kind (number, name or other text), and one is at most twice as long as the
    other. Those of the same form (`12 kg`, `7 kg`) come first, then those whose prompts are most
    similar. Equals are ordered by a hash of the seed, the sample's id and the answer.
    """
    rows = _distinct_rows(pool)
    if not rows:
        for _ in samples:
            yield iter(())
        return
    index = _AnswerIndex.build(rows)
    for chunk in _chunks(samples):
        for ranks in index.rank(chunk, seed):
            yield (index.answers[place] for place in _descending(ranks))


def similar_rows(
    samples: Sequence[Sample],
    pool: Sequence[Sample],
    k: int,
    min_similarity: float = MIN_SIMILARITY,
) -> Iterator[list[SimilarRow]]:
    """For each sample in turn, up to `k` rows of `pool` with the most similar prompts, best first.

    The own row of a sample is among them unless `k` others are equal to it. The cosine,
    `min_similarity`..1, is that of TF-IDF over the MAX_WORDS words that weigh most among the last
    MAX_PROMPT_CHARACTERS characters of each prompt. Equals are in the order of the pool.
    """
    import numpy as np
    from scipy.sparse import diags_array
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sparse_dot_topn import sp_matmul_topn

    if not pool:
        return
    vectorizer = TfidfVectorizer(analyzer=_words, dtype=np.float32)
    pool_rows = vectorizer.fit_transform(_prompt_texts(pool))
    # the token that all prompts share must not make them similar
    is_word = np.arange(pool_rows.shape[1]) != vectorizer.vocabulary_[NO_WORD]
    words_only = diags_array(is_word.astype(np.float32))
    pool_columns = _heaviest_words((pool_rows @ words_only).tocsr()).T.tocsr()
    for chunk in _chunks(samples):
        chunk_rows = vectorizer.transform(_prompt_texts(chunk)) @ words_only
        similarities = sp_matmul_topn(
            _heaviest_words(chunk_rows.tocsr()),
            pool_columns,
            top_n=k,
            threshold=min_similarity,
            n_threads=os.cpu_count(),
        )
        for row in _sparse_rows(similarities):
            yield sorted(row, key=lambda similar: (-similar.cosine, similar.place))


def stable_hash(text: str) -> int:
    """64 bits of BLAKE2b, the same in every process and on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


class _PoolRow(NamedTuple):
    """A distinct row of the pool; rows are sorted by these fields."""

    key: str
    """Of its answer, see `answer_key`."""
    answer: str
    prompt: str


def _distinct_rows(pool: Iterable[Sample]) -> list[_PoolRow]:
    # a set, as rows that are equal would slow the search and change nothing
    rows = set[_PoolRow]()
    for sample in pool:
        rows.add(_PoolRow(answer_key(sample.answer), sample.answer, prompt_text(sample.prompt)))
    return sorted(rows)


class _Features(NamedTuple):
    """What must be alike in an answer and one that stands in for it; one number for each answer."""

    kinds: np.ndarray
    """NUMBER_KIND, NAME_KIND or TEXT_KIND."""
    forms: np.ndarray
    """Number of its form among those of the pool, -1 for a form that no answer of the pool has."""
    lengths: np.ndarray
    """Characters without label."""

    def as_columns(self) -> _Features:
        """The same, [n, 1] instead of [n]: to be compared with all answers of a pool at once."""
        return _Features(self.kinds[:, None], self.forms[:, None], self.lengths[:, None])


@dataclass(frozen=True)
class _AnswerIndex:
    """The distinct answers of a pool with the prompts that they were given to."""

    answers: list[str]
    """One spelling of each."""
    first_rows: list[int]
    """The first row of each answer; the rows of an answer stand together."""
    prompts: Any
    """TF-IDF of the rows' prompts, [words, rows], sparse."""
    vectorizer: Any
    """What made it."""
    form_numbers: Mapping[str, int]
    """The forms of the answers, numbered."""
    features: _Features
    hashes: np.ndarray
    """64 bits of each answer, to order equals."""

    @classmethod
    def build(cls, rows: Sequence[_PoolRow]) -> _AnswerIndex:
        """The index of rows that are sorted by their answers' keys."""
        import numpy as np
        from sklearn.feature_extraction.text import TfidfVectorizer

        first_rows = [0]
        for place in range(1, len(rows)):
            if rows[place].key != rows[place - 1].key:
                first_rows.append(place)
        answers = [rows[place].answer for place in first_rows]
        forms = sorted(set(map(_form, answers)))
        form_numbers = {form: number for number, form in enumerate(forms)}
        # words of a single prompt compare nothing
        vectorizer = TfidfVectorizer(analyzer=_tokens, min_df=min(2, len(rows)), dtype=np.float32)
        return cls(
            answers=answers,
            first_rows=first_rows,
            prompts=vectorizer.fit_transform([row.prompt for row in rows]).T.tocsr(),
            vectorizer=vectorizer,
            form_numbers=form_numbers,
            features=_features(answers, form_numbers),
            hashes=_hashes(rows[place].key for place in first_rows),
        )

    def rank(self, samples: Sequence[Sample], seed: int) -> np.ndarray:
        """How well each answer fits each sample, [samples, answers]; -1 where it does not."""
        import numpy as np

        wanted = _features([sample.answer for sample in samples], self.form_numbers).as_columns()
        fits = (
            (wanted.kinds == self.features.kinds)
            & (wanted.lengths <= MAX_LENGTH_RATIO * self.features.lengths)
            & (self.features.lengths <= MAX_LENGTH_RATIO * wanted.lengths)
        )
        # 2 for the form is more than any cosine: the form goes before the similarity
        same_form = 2.0 * (wanted.forms == self.features.forms)
        rank = self._similarity(samples) + same_form + self._tie_breaks(samples, seed)
        return np.where(fits, rank, -1.0)

    def _similarity(self, samples: Sequence[Sample]) -> np.ndarray:
        """Cosine with the most similar prompt of each answer, in steps of .01."""
        import numpy as np

        prompts = self.vectorizer.transform(_prompt_texts(samples))
        by_row = (prompts @ self.prompts).toarray()
        # the rows of an answer stand together: the largest value of each stretch
        by_answer = np.maximum.reduceat(by_row, self.first_rows, axis=1)
        return by_answer.round(2)

    def _tie_breaks(self, samples: Sequence[Sample], seed: int) -> np.ndarray:
        """A pseudo-random number for each sample and answer, 0..0.005: less than a step of .01."""
        import numpy as np

        sample_hashes = _hashes(f"{seed}/{sample.id}" for sample in samples)[:, None]
        mixed: np.ndarray = (self.hashes ^ sample_hashes) * np.uint64(GOLDEN_RATIO)
        # the upper 53 bits are what a float holds exactly
        upper: np.ndarray = mixed >> np.uint64(11)
        return upper * (0.005 / 2**53)


def _features(answers: Sequence[str], form_numbers: Mapping[str, int]) -> _Features:
    import numpy as np

    return _Features(
        kinds=np.array(list(map(_answer_kind, answers))),
        forms=np.array([form_numbers.get(_form(answer), -1) for answer in answers]),
        lengths=np.array([len(without_label(answer)) for answer in answers]),
    )


def _hashes(texts: Iterable[str]) -> np.ndarray:
    import numpy as np

    return np.array(list(map(stable_hash, texts)), np.uint64)


def _answer_kind(answer: str) -> int:
    """Whether an answer is a number, a name or other text."""
    shape = text_shape(without_label(answer))
    first = KIND_CHARACTER.search(shape)
    if first and first[0] == "0":
        return NUMBER_KIND
    words = shape.split()
    capitalised = sum("A" in word for word in words)
    return NAME_KIND if 2 * capitalised >= len(words) else TEXT_KIND


def _form(answer: str) -> str:
    """The shape of an answer, shortened: `7 kg of the best rice` and `12 lbs of tea` are `0 a`.

    Lower-case words in the middle are left out, and words of one shape in a row are told once.
    """
    words = text_shape(without_label(answer)).split()
    ends = (0, len(words) - 1)
    telling = [word for place, word in enumerate(words) if word != "a" or place in ends]
    return " ".join(word for word, _ in itertools.groupby(telling))


def _descending(ranks: np.ndarray) -> Iterator[int]:
    """Places of the ranks >= 0, highest rank first; changes `ranks`.

    Few answers are taken as a rule: the first FIRST_RANKED are found without sorting the rest.
    """
    import numpy as np

    if len(ranks) > FIRST_RANKED:
        top = np.argpartition(-ranks, FIRST_RANKED)[:FIRST_RANKED]
        best_first = top[np.argsort(-ranks[top])]
        yield from _non_negative(best_first, ranks)
        ranks[top] = -1.0
    yield from _non_negative(np.argsort(-ranks, kind="stable"), ranks)


def _non_negative(places: np.ndarray, ranks: np.ndarray) -> Iterator[int]:
    return (int(place) for place in places if ranks[place] >= 0)


def _heaviest_words(rows: Any) -> Any:
    """Sparse rows with all but their MAX_WORDS largest values left out, of length 1 again."""
    import numpy as np
    from sklearn.preprocessing import normalize

    sizes = np.diff(rows.indptr)
    row_of_value = np.repeat(np.arange(rows.shape[0]), sizes)
    start_of_row = np.repeat(rows.indptr[:-1], sizes)
    # by row, then by value downwards, then by word: `lexsort` takes the first key last
    order = np.lexsort((rows.indices, -rows.data, row_of_value))
    rank_in_row = np.arange(len(order)) - start_of_row
    rows.data[order[rank_in_row >= MAX_WORDS]] = 0
    rows.eliminate_zeros()
    return normalize(rows, copy=False)


def _sparse_rows(similarities: Any) -> Iterator[list[SimilarRow]]:
    """For each sample, the rows of the pool that have a value in a matrix [samples, pool]."""
    for start, end in itertools.pairwise(similarities.indptr):
        places = similarities.indices[start:end].tolist()
        cosines = similarities.data[start:end].tolist()
        yield list(map(SimilarRow, places, cosines))


def _chunks(samples: Sequence[Sample]) -> Iterator[Sequence[Sample]]:
    for start in range(0, len(samples), CHUNK_SIZE):
        yield samples[start : start + CHUNK_SIZE]


def _prompt_texts(samples: Sequence[Sample]) -> list[str]:
    return [prompt_text(sample.prompt) for sample in samples]


def _tokens(prompt: str) -> list[str]:
    """The tokens of a prompt's end, and NO_WORD."""
    return [NO_WORD, *TOKEN.findall(prompt[-MAX_PROMPT_CHARACTERS:].casefold())]


def _words(prompt: str) -> list[str]:
    """The same without marks."""
    return [token for token in _tokens(prompt) if token == NO_WORD or token[0].isalnum()]
