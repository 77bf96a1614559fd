"""Texts about samples, found in a corpus."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from ilp_mitigations.sources.ranking import rank_texts, sample_query
from ilp_mitigations.sources.rows import read_records
from ilp_mlflow.plugin import PluginError, Sample, Value


class Corpus(Value):
    """A corpus on this machine, or a data set on the Hub."""

    path: str
    """File (text, JSONL, Parquet, CSV), folder of text files or of a saved data set, or
    `owner/name` on the Hub."""
    field: str = "text"
    """Field of its records that holds the text."""

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """Its documents, each once.

        Raises PluginError when it cannot be read, a record has no text in `field`, or it is empty.
        """
        # a dict for its order
        distinct: dict[str, None] = {}
        for number, record in enumerate(read_records(self.path), 1):
            text = record.get(self.field)
            if not isinstance(text, str):
                raise PluginError(
                    f"{self.path} record {number}: no text in field '{self.field}'; "
                    f"it has: {', '.join(record)}"
                )
            distinct[text] = None
        if not distinct:
            raise PluginError(f"{self.path}: no documents in it")
        return tuple(distinct)

    def documents(self, samples: Sequence[Sample], n: int) -> list[list[str]]:
        """For each sample the `2 * n` documents that fit it best, some perhaps its own text.

        Raises PluginError as `texts` does.
        """
        queries = [sample_query(sample) for sample in samples]
        # more than asked for, since a sample's own texts are taken out afterwards
        return rank_texts(self.texts, queries, 2 * n)
