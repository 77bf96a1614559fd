"""Answers to the most similar prompts: of the same kind, about the same length."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ilp_mlflow.core.values import Sample
from ilp_mlflow.data.matching import normalize_answer, prompt_text, without_label, without_spacing
from ilp_mlflow.data.perturbations import UNSPACED, text_shape

if TYPE_CHECKING:
    import numpy as np

PROMPT = 2_000
"""Characters at the end of a prompt that are compared with other prompts."""
WORDS = 8
"""Words of a prompt that are compared: the rarest tell what it asks, and the others make a search slow."""
CHUNK = 256
"""Samples compared with the pool at a time."""
FIRST = 32
"""Answers ranked for a sample before all others are."""
TOKEN = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+|[^\w\s]")


def nearest_answers(
    samples: Sequence[Sample], pool: Iterable[Sample], seed: int
) -> Iterator[Iterator[str]]:
    """For each sample in turn, distinct answers of `pool` of the same kind and within a factor 2 of the length of its own.

    Those of the same form come first, then those whose prompts are most similar: cosine of TF-IDF over words. Equals are
    ordered by a hash of the seed, the sample's id and the answer.
    """
    rows = sorted(
        {
            (without_spacing(normalize_answer(s.answer)), s.answer, prompt_text(s.prompt))
            for s in pool
        }
    )
    if not rows:
        yield from (iter(()) for _ in samples)
        return
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer

    starts = [i for i, row in enumerate(rows) if i == 0 or row[0] != rows[i - 1][0]]
    answers = [rows[start][1] for start in starts]
    vectorizer = TfidfVectorizer(analyzer=_tokens, min_df=min(2, len(rows)), dtype=np.float32)
    prompts = vectorizer.fit_transform([row[2] for row in rows]).T.tocsr()
    numbers = {form: i for i, form in enumerate(sorted({_form(answer) for answer in answers}))}
    kinds, forms, lengths = _features(answers, numbers)
    hashes = np.array([feature_hash(rows[start][0]) for start in starts], np.uint64)
    for first in range(0, len(samples), CHUNK):
        chunk = samples[first : first + CHUNK]
        similarity = (
            vectorizer.transform([prompt_text(s.prompt) for s in chunk]) @ prompts
        ).toarray()
        similarity = np.maximum.reduceat(similarity, starts, axis=1).round(2)
        kind, form, length = _features([s.answer for s in chunk], numbers)[:, :, None]
        own = np.array([feature_hash(f"{seed}/{s.id}") for s in chunk], np.uint64)[:, None]
        ties = ((hashes ^ own) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(11)) * (0.005 / 2**53)
        fits = (kind == kinds) & (length <= 2 * lengths) & (lengths <= 2 * length)
        rank = np.where(fits, similarity + 2.0 * (form == forms) + ties, -1.0)
        yield from ((answers[i] for i in _descending(row)) for row in rank)


def feature_hash(text: str) -> int:
    """64 bits of BLAKE2b, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def _features(answers: Sequence[str], forms: Mapping[str, int]) -> np.ndarray:
    """Kind, number of the form and length in characters, one row each."""
    import numpy as np

    found = [
        (_kind(answer), forms.get(_form(answer), -1), len(without_label(answer)))
        for answer in answers
    ]
    return np.array(found).T


def _kind(answer: str) -> int:
    """0 number, 1 name (half of its words are capitalised), 2 other text."""
    words = text_shape(without_label(answer)).split()
    if next((c for word in words for c in word if c in "0Aa"), "") == "0":
        return 0
    return 1 if 2 * sum("A" in word for word in words) >= len(words) else 2


def _form(answer: str) -> str:
    """The shape of `answer`, words of one shape in a row and lower-case ones in the middle told once or not at all."""
    words = text_shape(without_label(answer)).split()
    kept = [word for i, word in enumerate(words) if word != "a" or i in (0, len(words) - 1)]
    return " ".join(word for word, _ in itertools.groupby(kept))


def _descending(values: np.ndarray) -> Iterator[int]:
    """Places of the values >= 0, largest value first; the first ones are found without sorting the rest."""
    import numpy as np

    if len(values) > FIRST:
        top = np.argpartition(-values, FIRST)[:FIRST]
        yield from (int(i) for i in top[np.argsort(-values[top])] if values[i] >= 0)
        values[top] = -1.0
    yield from (int(i) for i in np.argsort(-values, kind="stable") if values[i] >= 0)


def _tokens(prompt: str) -> list[str]:
    return ["", *TOKEN.findall(prompt[-PROMPT:].casefold())]


def _words(prompt: str) -> list[str]:
    return [token for token in _tokens(prompt) if not token or token[0].isalnum()]


def similar_rows(
    samples: Sequence[Sample], pool: Sequence[Sample], k: int, least: float = 0.3
) -> Iterator[list[tuple[int, float]]]:
    """For each sample in turn, places in `pool` and cosines of the up to `k` most similar prompts, its own row among them where
    fewer than `k` are equal to it.

    Cosine `least`..1 of TF-IDF over the WORDS words of each prompt's last PROMPT characters that weigh most; equals are in the
    order of the pool.
    """
    import numpy as np
    from scipy.sparse import diags_array
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sparse_dot_topn import sp_matmul_topn

    if not pool:
        return
    vectorizer = TfidfVectorizer(analyzer=_words, dtype=np.float32)
    rows = vectorizer.fit_transform([prompt_text(s.prompt) for s in pool])
    told = diags_array(
        (np.arange(rows.shape[1]) != vectorizer.vocabulary_[""]).astype(np.float32)
    )  # no word is nothing in common
    prompts = _heaviest((rows @ told).tocsr()).T.tocsr()
    for first in range(0, len(samples), CHUNK):
        texts = vectorizer.transform(
            [prompt_text(s.prompt) for s in samples[first : first + CHUNK]]
        )
        chunk = _heaviest((texts @ told).tocsr())
        found = sp_matmul_topn(chunk, prompts, top_n=k, threshold=least, n_threads=os.cpu_count())
        for start, end in itertools.pairwise(found.indptr):
            near = zip(
                found.indices[start:end].tolist(), found.data[start:end].tolist(), strict=True
            )
            yield sorted(near, key=lambda pair: (-pair[1], pair[0]))


def _heaviest(rows: Any) -> Any:
    """Sparse rows with all but their WORDS largest values left out, of length 1 again."""
    import numpy as np
    from sklearn.preprocessing import normalize

    number = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
    order = np.lexsort((rows.indices, -rows.data, number))
    rank = np.arange(len(order)) - np.repeat(rows.indptr[:-1], np.diff(rows.indptr))
    rows.data[order[rank >= WORDS]] = 0
    rows.eliminate_zeros()
    return normalize(rows, copy=False)
