"""Which texts fit a query best, by BM25 (Robertson and Zaragoza 2009; the library bm25s, Lù 2024)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ilp_mlflow.plugin import Sample, prompt_text


def query(sample: Sample) -> str:
    """What is looked for about a sample: its prompt and right answer."""
    return f"{prompt_text(sample.prompt)} {sample.answer}"


def ranked(texts: Sequence[str], queries: Iterable[str], n: int) -> list[list[str]]:
    """For each query the `n` texts that fit it best, best first; fewer where fewer share a word with it."""
    import bm25s

    asked = list(queries)
    if not texts or not asked:
        return [[] for _ in asked]
    index = bm25s.BM25()
    index.index(
        bm25s.tokenize(list(texts), stopwords=None, show_progress=False), show_progress=False
    )
    words = bm25s.tokenize(asked, stopwords=None, show_progress=False)
    places, scores = index.retrieve(words, k=min(n, len(texts)), show_progress=False)
    return [
        [texts[i] for i, fit in zip(row, fits, strict=True) if fit > 0]
        for row, fits in zip(places, scores, strict=True)
    ]
