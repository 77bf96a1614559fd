"""Records become samples; a bad one is named, and nothing is skipped."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ilp_mlflow.core.config import DataConfig
from ilp_mlflow.core.errors import DatasetError
from ilp_mlflow.core.validation import describe_error
from ilp_mlflow.core.values import Message, Sample, Stage, Text
from ilp_mlflow.data.readers import Record, read_records

if TYPE_CHECKING:
    import pyarrow as pa


def load_samples(stage: str, data: DataConfig) -> list[Sample]:
    """All samples of a stage.

    Raises DatasetError when the file is missing, cannot be fetched, is of an unknown kind or not readable, when a row
    lacks a field, has one of the wrong type or an empty one, or gives an id a second time, and when no row is left.
    """
    origin = data.path or f"{data.dataset}[{data.split}]"
    chosen = (
        r
        for r in read_records(data)
        if all(str(r[2].get(k)) == str(v) for k, v in data.where.items())
    )
    samples = samples_from_records(stage, itertools.islice(chosen, data.limit))
    if not samples:
        raise DatasetError(
            f"{origin}: no rows"
            + (f" where {data.where}; check the file and 'where'" if data.where else " in it")
        )
    return samples


def samples_from_records(stage: str, records: Iterable[Record]) -> list[Sample]:
    """The samples of `records`, all of one form and with ids of their own. Raises DatasetError, see `load`."""
    samples, seen = list[Sample](), dict[str, str]()
    for where, row, record in records:
        sample = sample_from_record(record, stage, row, where)
        if sample.id in seen:
            raise DatasetError(
                f"{where}: id '{sample.id}' was given in {seen[sample.id]}; make ids unique or leave them out"
            )
        if samples and isinstance(sample.prompt, str) != isinstance(samples[0].prompt, str):
            raise DatasetError(
                f"{where}: a stage is either all text or all messages; {seen[samples[0].id]} is the other form"
            )
        seen[sample.id] = where
        samples.append(sample)
    return samples


def sample_from_record(record: dict[str, Any], stage: str, row: int, where: str) -> Sample:
    """One record in prompt-completion or conversational form as a sample. Raises DatasetError, see `load`."""
    record = {key: value for key, value in record.items() if value is not None}
    prompt: Text
    completion: Text
    if "messages" in record:
        prompt, completion = _last_turn(
            _messages(_decoded(record.pop("messages"), where, "messages"), where, "messages"), where
        )
    else:
        prompt, completion = (_text(record, name, where) for name in ("prompt", "completion"))
    if isinstance(prompt, str) != isinstance(completion, str):
        raise DatasetError(f"{where}: prompt and completion must both be text or both be messages")
    if not isinstance(prompt, str) and not isinstance(completion, str):
        prompt, completion = _last_turn(prompt + completion, where)
    options, probes, paraphrases = (
        _decoded(record.pop(name, ()), where, name) for name in ("options", "probes", "paraphrases")
    )
    identity = record.pop("id", f"{stage}/{row}")
    if not isinstance(identity, str | int) or identity == "":
        raise DatasetError(f"{where}: id must be text or a whole number, got {identity!r}")
    try:
        return Sample(
            id=str(identity),
            stage=stage,
            prompt=prompt,
            completion=completion,
            options=tuple(options) or None,
            probes=tuple(probes),
            paraphrases=tuple(paraphrases),
            source=record.pop("source", None),
            metadata=record,
        )
    except (ValidationError, TypeError) as error:
        detail = (
            describe_error(error, Sample, where)
            if isinstance(error, ValidationError)
            else f"{where}: {error}"
        )
        raise DatasetError(detail) from None


def samples_digest(samples: Iterable[Sample]) -> str:
    """SHA-256 over the samples in order: the same data has the same digest on any machine."""
    total = hashlib.sha256()
    for sample in samples:
        total.update(json.dumps(sample.model_dump(), sort_keys=True, default=str).encode())
    return total.hexdigest()


def stage_digest(stage: Stage) -> str:
    """SHA-256 over a stage: its options and schedule, its samples and its validation samples."""
    parts = [
        stage.model_dump_json(exclude={"samples", "validation"}),
        samples_digest(stage.samples),
        samples_digest(stage.validation),
    ]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def samples_to_table(samples: Iterable[Sample]) -> pa.Table:
    """Samples as columns; conversations, probes and metadata are JSON text."""
    import pyarrow as pa

    def encode(text: Text) -> str:
        return (
            text
            if isinstance(text, str)
            else json.dumps([m.model_dump() for m in text], ensure_ascii=False)
        )

    rows = [
        {
            "sample_id": s.id,
            "stage": s.stage,
            "conversational": not isinstance(s.prompt, str),
            "prompt": encode(s.prompt),
            "completion": encode(s.completion),
            "options": s.options,
            "probes": json.dumps([p.model_dump() for p in s.probes], ensure_ascii=False),
            "paraphrases": s.paraphrases,
            "source": s.source,
            "metadata": json.dumps(s.metadata, ensure_ascii=False, default=str),
        }
        for s in samples
    ]
    text = ("sample_id", "stage", "prompt", "completion", "probes", "source", "metadata")
    fields = (
        {name: pa.string() for name in rows[0]} if rows else {name: pa.string() for name in text}
    )
    fields |= {
        "conversational": pa.bool_(),
        "options": pa.list_(pa.string()),
        "paraphrases": pa.list_(pa.string()),
    }
    return pa.Table.from_pylist(rows, schema=pa.schema(list(fields.items())))


def samples_from_table(table: pa.Table) -> list[Sample]:
    """The samples that `to_columns` wrote."""

    def decode(text: str, conversational: bool) -> Any:
        return json.loads(text) if conversational else text

    return [
        Sample(
            id=row["sample_id"],
            stage=row["stage"],
            prompt=decode(row["prompt"], row["conversational"]),
            completion=decode(row["completion"], row["conversational"]),
            options=row["options"],
            probes=json.loads(row["probes"]),
            paraphrases=row["paraphrases"],
            source=row["source"],
            metadata=json.loads(row["metadata"]),
        )
        for row in table.to_pylist()
    ]


def _text(record: dict[str, Any], name: str, where: str) -> Text:
    """Field `name` as non-empty text or messages, taken out of the record."""
    if name not in record:
        raise DatasetError(
            f"{where}: no '{name}'; a row needs 'prompt' and 'completion', or 'messages'"
        )
    value = record.pop(name)
    text: Text
    if isinstance(value, list):
        text = _messages(value, where, name)
    elif isinstance(value, str):
        text = value
    else:
        raise DatasetError(
            f"{where}: {name} must be text or a list of messages, got {type(value).__name__}"
        )
    if not "".join(text if isinstance(text, str) else (m.content for m in text)).strip():
        raise DatasetError(f"{where}: {name} is empty; fill it in or remove the row")
    return text


def _last_turn(
    messages: tuple[Message, ...], where: str
) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """A conversation as what comes before its last turn, the assistant's, and that turn."""
    if len(messages) < 2 or messages[-1].role != "assistant":
        raise DatasetError(
            f"{where}: messages must be a conversation that ends with an assistant turn"
        )
    if not messages[-1].content.strip():
        raise DatasetError(
            f"{where}: the last assistant turn is empty; fill it in or remove the row"
        )
    return messages[:-1], messages[-1:]


def _messages(value: Any, where: str, name: str) -> tuple[Message, ...]:
    try:
        return tuple(Message(role=turn["role"], content=turn["content"]) for turn in value)
    except (TypeError, KeyError, ValidationError):
        raise DatasetError(
            f"{where}: {name} must be a list of {{'role': ..., 'content': ...}} with text in both"
        ) from None


def _decoded(value: Any, where: str, name: str) -> Any:
    """A list given as such, or as JSON text where the file format (CSV) has no lists."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            raise DatasetError(
                f"{where}: {name} must be a list (in CSV: a JSON list), got {value!r}"
            ) from None
    if not isinstance(value, list | tuple):
        raise DatasetError(f"{where}: {name} must be a list, got {value!r}")
    return value
