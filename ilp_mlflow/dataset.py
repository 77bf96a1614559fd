"""Records of a file or data set become samples; a bad row is named, and nothing is skipped."""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ilp_mlflow.config import REMOTE, DataConfig, describe
from ilp_mlflow.errors import DatasetError, first_line
from ilp_mlflow.types import Message, Sample, Stage, Text

if TYPE_CHECKING:
    import pyarrow as pa

Record = tuple[str, int, dict[str, Any]]
"""Where the row is (for messages), its number in the file counted from 1, its fields."""


def load(stage: str, data: DataConfig) -> list[Sample]:
    """All samples of a stage.

    Raises DatasetError when the file is missing, cannot be fetched, is of an unknown kind or not readable, when a row
    lacks a field, has one of the wrong type or an empty one, or gives an id a second time, and when no row is left.
    """
    origin = data.path or f"{data.dataset}[{data.split}]"
    chosen = (r for r in _records(data) if all(str(r[2].get(k)) == str(v) for k, v in data.where.items()))
    samples = collect(stage, itertools.islice(chosen, data.limit))
    if not samples:
        raise DatasetError(f"{origin}: no rows{f' where {data.where}' if data.where else ''}; check the file and 'where'")
    return samples


def collect(stage: str, records: Iterable[Record]) -> list[Sample]:
    """The samples of `records`, all of one form and with ids of their own. Raises DatasetError, see `load`."""
    samples, seen = list[Sample](), dict[str, str]()
    for where, row, record in records:
        sample = to_sample(record, stage, row, where)
        if sample.id in seen:
            raise DatasetError(f"{where}: id '{sample.id}' was given in {seen[sample.id]}; make ids unique or leave them out")
        if samples and isinstance(sample.prompt, str) != isinstance(samples[0].prompt, str):
            raise DatasetError(f"{where}: a stage is either all text or all messages; {seen[samples[0].id]} is the other form")
        seen[sample.id] = where
        samples.append(sample)
    return samples


def opened(rows: Any) -> Any:
    """The rows in a data set of `mlflow.data` that was made from pandas or from Hugging Face; anything else as it is."""
    import pyarrow as pa

    if hasattr(rows, "df"):
        return pa.Table.from_pandas(rows.df, preserve_index=False).to_pylist()
    return getattr(rows, "ds", rows)


def to_sample(record: dict[str, Any], stage: str, row: int, where: str) -> Sample:
    """One record in prompt-completion or conversational form as a sample. Raises DatasetError, see `load`."""
    record = {key: value for key, value in record.items() if value is not None}
    prompt: Text
    completion: Text
    if "messages" in record:
        prompt, completion = _last_turn(_messages(_decoded(record.pop("messages"), where, "messages"), where, "messages"), where)
    else:
        prompt, completion = (_text(record, name, where) for name in ("prompt", "completion"))
    if isinstance(prompt, str) != isinstance(completion, str):
        raise DatasetError(f"{where}: prompt and completion must both be text or both be messages")
    if not isinstance(prompt, str) and not isinstance(completion, str):
        prompt, completion = _last_turn(prompt + completion, where)
    options, probes, paraphrases = (_decoded(record.pop(name, ()), where, name) for name in ("options", "probes", "paraphrases"))
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
        detail = describe(error, Sample, where) if isinstance(error, ValidationError) else f"{where}: {error}"
        raise DatasetError(detail) from None


def digest(samples: Iterable[Sample]) -> str:
    """SHA-256 over the samples in order: the same data has the same digest on any machine."""
    total = hashlib.sha256()
    for sample in samples:
        total.update(json.dumps(sample.model_dump(), sort_keys=True, default=str).encode())
    return total.hexdigest()


def stage_digest(stage: Stage) -> str:
    """SHA-256 over a stage: its options and schedule, its samples and its validation samples."""
    parts = [stage.model_dump_json(exclude={"samples", "validation"}), digest(stage.samples), digest(stage.validation)]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def to_columns(samples: Iterable[Sample]) -> pa.Table:
    """Samples as columns; conversations, probes and metadata are JSON text."""
    import pyarrow as pa

    def encode(text: Text) -> str:
        return text if isinstance(text, str) else json.dumps([m.model_dump() for m in text], ensure_ascii=False)

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
    fields = {name: pa.string() for name in rows[0]} if rows else {name: pa.string() for name in text}
    fields |= {"conversational": pa.bool_(), "options": pa.list_(pa.string()), "paraphrases": pa.list_(pa.string())}
    return pa.Table.from_pylist(rows, schema=pa.schema(list(fields.items())))


def from_columns(table: pa.Table) -> list[Sample]:
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


def _records(data: DataConfig) -> Iterator[Record]:
    if data.dataset is not None:
        return _hub(data)
    location = str(data.path)
    return _fetched(location) if REMOTE.match(location) else _local(Path(location), location)


def _local(path: Path, name: str) -> Iterator[Record]:
    """The rows of a file or folder that is called `name` in messages."""
    if not path.exists():
        raise DatasetError(f"{name}: no such file; check the path, which in an experiment is relative to the experiment's file")
    if path.is_dir():
        return _saved(path, name)
    readers = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
    if path.suffix not in readers:
        raise DatasetError(f"{name}: unknown kind of file '{path.suffix}'; use {', '.join(readers)} or a data set folder")
    return readers[path.suffix](path, name)


def _fetched(location: str) -> Iterator[Record]:
    """The rows of what MLflow finds at a location; its copy is there while they are read."""
    import mlflow
    from mlflow.data.http_dataset_source import HTTPDatasetSource

    run = re.fullmatch(r"runs:/(\w+)/?", location)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            if run:
                found = _input(run[1], scratch)
            elif location.startswith("http"):
                found = HTTPDatasetSource(location).load(scratch)
            else:
                found = mlflow.artifacts.download_artifacts(location, dst_path=scratch)
        except DatasetError:
            raise
        except Exception as error:  # every store raises its own kinds
            store = mlflow.get_tracking_uri()
            raise DatasetError(
                f"{location}: cannot be fetched ({first_line(error)}); check it; MLflow's store is {store}"
            ) from None
        if isinstance(found, str):
            yield from _local(Path(found), location)
        else:
            yield from _rows(found, location)


def _input(run_id: str, scratch: str) -> Any:
    """What was logged as the input of a run: a path below `scratch`, or a data set of the Hub. Raises DatasetError."""
    import mlflow

    given = {i.dataset.digest: i.dataset for i in mlflow.get_run(run_id).inputs.dataset_inputs}
    if len(given) != 1:
        names = ", ".join(d.name for d in given.values()) or "none"
        raise DatasetError(
            f"runs:/{run_id}: a run with one data set logged as input is needed, it has {names}; give a file's location"
        )
    source = mlflow.data.get_source(*given.values())
    if source._get_source_type() == "code":
        raise DatasetError(f"runs:/{run_id}: its data set was logged without a source to load it from; give a file's location")
    return source.load() if source._get_source_type() == "hugging_face" else source.load(scratch)


def _jsonl(path: Path, name: str) -> Iterator[Record]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            where = f"{name} line {number}"
            if not line.strip():
                continue
            try:
                record = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                raise DatasetError(f"{where}: not UTF-8 (byte {error.start + 1}); save the file as UTF-8") from None
            except json.JSONDecodeError as error:
                raise DatasetError(f"{where}: not valid JSON ({error.msg} at column {error.colno}); is the line cut off?") from None
            if b"\\ud" in line.lower() and not _encodable(record):
                raise DatasetError(f"{where}: holds half of a surrogate pair (\\ud800 to \\udfff), which is no text; remove it")
            if not isinstance(record, dict):
                raise DatasetError(f"{where}: expected an object with 'prompt' and 'completion', got {type(record).__name__}")
            yield where, number, record


def _encodable(record: Any) -> bool:
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _csv(path: Path, name: str) -> Iterator[Record]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            for number, record in enumerate(reader, 1):
                where = f"{name} row {number}"
                if None in record or None in record.values():
                    raise DatasetError(f"{where}: has not as many fields as the header ({len(reader.fieldnames or ())})")
                yield where, number, {key: value for key, value in record.items() if value != "" or key == "completion"}
    except UnicodeDecodeError:
        raise DatasetError(f"{name}: not UTF-8; save the file as UTF-8") from None
    except csv.Error as error:
        raise DatasetError(f"{name}: not valid CSV ({error}); is the file cut off?") from None


def _parquet(path: Path, name: str) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{name}: not a Parquet file ({first_line(error)})") from None
    for number, record in enumerate(table.to_pylist(), 1):
        yield f"{name} row {number}", number, record


def _saved(path: Path, name: str) -> Iterator[Record]:
    import datasets

    try:
        rows = datasets.load_from_disk(str(path))
    except FileNotFoundError:
        raise DatasetError(f"{name}: a folder, but not one written by datasets.save_to_disk") from None
    if isinstance(rows, datasets.DatasetDict):
        raise DatasetError(f"{name}: holds several splits ({', '.join(rows)}); give the folder of one of them")
    yield from _rows(rows, name)


def _rows(rows: Iterable[Any], name: str) -> Iterator[Record]:
    for number, record in enumerate(rows, 1):
        yield f"{name} row {number}", number, dict(record)


def _hub(data: DataConfig) -> Iterator[Record]:
    import datasets

    try:
        rows = datasets.load_dataset(str(data.dataset), data.config, split=data.split)
    except Exception as error:  # the library raises a dozen kinds, network faults among them
        raise DatasetError(f"data set '{data.dataset}' [{data.split}]: {first_line(error)}; check name, config and split") from None
    yield from _rows(rows, f"{data.dataset}[{data.split}]")


def _text(record: dict[str, Any], name: str, where: str) -> Text:
    """Field `name` as non-empty text or messages, taken out of the record."""
    if name not in record:
        raise DatasetError(f"{where}: no '{name}'; a row needs 'prompt' and 'completion', or 'messages'")
    value = record.pop(name)
    text: Text
    if isinstance(value, list):
        text = _messages(value, where, name)
    elif isinstance(value, str):
        text = value
    else:
        raise DatasetError(f"{where}: {name} must be text or a list of messages, got {type(value).__name__}")
    if not "".join(text if isinstance(text, str) else (m.content for m in text)).strip():
        raise DatasetError(f"{where}: {name} is empty; fill it in or remove the row")
    return text


def _last_turn(messages: tuple[Message, ...], where: str) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """A conversation as what comes before its last turn, the assistant's, and that turn."""
    if len(messages) < 2 or messages[-1].role != "assistant":
        raise DatasetError(f"{where}: messages must be a conversation that ends with an assistant turn")
    if not messages[-1].content.strip():
        raise DatasetError(f"{where}: the last assistant turn is empty; fill it in or remove the row")
    return messages[:-1], messages[-1:]


def _messages(value: Any, where: str, name: str) -> tuple[Message, ...]:
    try:
        return tuple(Message(role=turn["role"], content=turn["content"]) for turn in value)
    except (TypeError, KeyError, ValidationError):
        raise DatasetError(f"{where}: {name} must be a list of {{'role': ..., 'content': ...}} with text in both") from None


def _decoded(value: Any, where: str, name: str) -> Any:
    """A list given as such, or as JSON text where the file format (CSV) has no lists."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            raise DatasetError(f"{where}: {name} must be a list (in CSV: a JSON list), got {value!r}") from None
    if not isinstance(value, list | tuple):
        raise DatasetError(f"{where}: {name} must be a list, got {value!r}")
    return value
