"""More samples of a pattern, from rows the user has to spare."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ilp_mitigations.sources.rows import read_records
from ilp_mlflow.plugin import PluginError, Sample, Value, prompt_text


class Pool(Value):
    """Rows with `prompt` and `completion` that are in no stage."""

    path: str
    """File (JSONL, Parquet, CSV), folder of a saved data set, or `owner/name` on the Hub."""

    def samples(
        self, words: Collection[str], given: Mapping[str, Sample], stage: str, n: int
    ) -> dict[str, list[Sample]]:
        """By word, all rows whose prompt has it, however many, as samples of `stage`.

        Raises PluginError when the pool cannot be read or a row lacks prompt or completion.
        """
        rows_by_word: dict[str, list[Sample]] = {word: [] for word in words}
        for number, record in enumerate(read_records(self.path), 1):
            row = self._as_sample(number, record, stage)
            for word in set(prompt_text(row.prompt).casefold().split()) & set(rows_by_word):
                rows_by_word[word].append(row)
        return rows_by_word

    def _as_sample(self, number: int, record: Mapping[str, Any], stage: str) -> Sample:
        """A record of the pool as a sample of a stage."""
        try:
            return Sample(
                id=f"pool/{number}",
                stage=stage,
                prompt=record["prompt"],
                completion=record["completion"],
            )
        except (KeyError, ValueError):
            raise PluginError(
                f"{self.path} row {number}: needs 'prompt' and 'completion'; "
                f"it has: {', '.join(record)}"
            ) from None
