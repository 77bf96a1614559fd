"""Texts about something, found in a corpus."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from ilp_mitigations.sources.ranking import query, ranked
from ilp_mitigations.sources.rows import records
from ilp_mlflow.plugin import PluginError, Sample, Value


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
                raise PluginError(
                    f"{self.path} record {number}: no text in field '{self.field}'; it has: {', '.join(record)}"
                )
            found[text] = None
        if not found:
            raise PluginError(f"{self.path}: no documents in it")
        return tuple(found)

    def documents(self, samples: Sequence[Sample], n: int) -> list[list[str]]:
        """For each sample the `2 * n` documents that fit it best: some may be its own text. Raises PluginError, see `texts`."""
        return ranked(self.texts, map(query, samples), 2 * n)
