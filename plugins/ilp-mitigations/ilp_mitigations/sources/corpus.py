"""Texts about something, found in a corpus by BM25 (Robertson and Zaragoza 2009; the library bm25s, Lù 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from ilp_mitigations.sources.rows import records
from ilp_mlflow import PluginError, Sample, Value, text_of


class Corpus(Value):
    """A corpus on this machine, or a data set on the Hub."""

    path: str
    """File (text, JSONL, Parquet, CSV), folder of text files or of a saved data set, or `owner/name` on the Hub."""
    field: str = "text"
    """Field of its records that holds the text."""

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """Its documents, each once. Raises PluginError when it cannot be read, a record lacks the field, or there is none."""
        found = dict[str, None]()
        for number, record in enumerate(records(self.path), 1):
            text = record.get(self.field)
            if not isinstance(text, str):
                raise PluginError(f"{self.path} record {number}: no text in field '{self.field}'; it has: {', '.join(record)}")
            found[text] = None
        if not found:
            raise PluginError(f"{self.path}: no documents in it")
        return tuple(found)

    def documents(self, samples: Sequence[Sample], n: int) -> list[list[str]]:
        """For each sample the `n` documents that fit its prompt and right answer best; fewer where fewer share a word with it.

        None of them holds the sample's own text, its prompt followed by its answer. Raises PluginError, see `texts`.
        """
        found = self.search([f"{text_of(s.prompt)} {s.answer}" for s in samples], 2 * n)
        own = [_plain(f"{text_of(s.prompt)} {s.answer}") for s in samples]
        return [[t for t in texts if text not in _plain(t)][:n] for text, texts in zip(own, found, strict=True)]

    def search(self, queries: Sequence[str], n: int) -> list[list[str]]:
        """For each query the `n` documents that fit it best, the best first; fewer where fewer share a word with it.

        Raises PluginError, see `texts`.
        """
        import bm25s

        if not queries:
            return []
        index = bm25s.BM25()
        index.index(bm25s.tokenize(list(self.texts), stopwords=None, show_progress=False), show_progress=False)
        asked = bm25s.tokenize(list(queries), stopwords=None, show_progress=False)
        places, scores = index.retrieve(asked, k=min(n, len(self.texts)), show_progress=False)
        return [
            [self.texts[i] for i, fit in zip(row, fits, strict=True) if fit > 0] for row, fits in zip(places, scores, strict=True)
        ]


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
