"""Which texts fit a query best, by BM25.

Robertson and Zaragoza 2009, as the library bm25s has it (Lù 2024).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ilp_mlflow.plugin import Sample, prompt_text


def sample_query(sample: Sample) -> str:
    """What is looked for about a sample: its prompt and right answer."""
    return f"{prompt_text(sample.prompt)} {sample.answer}"


def rank_texts(texts: Sequence[str], queries: Iterable[str], n: int) -> list[list[str]]:
    """For each query the `n` texts that fit it best, best first.

    Fewer where fewer texts share a word with the query.
    """
    import bm25s

    questions = list(queries)
    if not texts or not questions:
        return [[] for _ in questions]
    index = bm25s.BM25()
    text_tokens = bm25s.tokenize(list(texts), stopwords=None, show_progress=False)
    index.index(text_tokens, show_progress=False)
    query_tokens = bm25s.tokenize(questions, stopwords=None, show_progress=False)
    # both (queries, k), best first; a score of 0 means that no word is shared
    places, scores = index.retrieve(query_tokens, k=min(n, len(texts)), show_progress=False)
    ranked: list[list[str]] = []
    for places_of_query, scores_of_query in zip(places, scores, strict=True):
        fitting = places_of_query[scores_of_query > 0]
        ranked.append([texts[place] for place in fitting])
    return ranked
