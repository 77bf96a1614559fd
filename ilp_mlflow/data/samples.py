"""Records become samples, samples become tables and digests; no bad record is skipped."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError

from ilp_mlflow.core.config import DataConfig
from ilp_mlflow.core.errors import DatasetError
from ilp_mlflow.core.texts import Conversation, Message, Text, asks_nothing
from ilp_mlflow.core.validation import describe_error
from ilp_mlflow.core.values import Sample, Stage
from ilp_mlflow.data.dataset_lists import resolve_listed
from ilp_mlflow.data.file_kinds import DuplicateKeyError, parse_json
from ilp_mlflow.data.formats.choose import FIRST_ROWS, canonical_records, names_of
from ilp_mlflow.data.readers import read_records
from ilp_mlflow.data.records import Record

if TYPE_CHECKING:
    import pyarrow as pa

TEXT_COLUMNS = (
    "sample_id",
    "stage",
    "prompt",
    "completion",
    "tools",
    "chat_template_kwargs",
    "probes",
    "source",
    "metadata",
    "place",
)
"""Columns of a table of samples that hold text."""
MAX_SHOWN = 120
"""Characters of a value that a message shows."""
LIST_COLUMNS = ("options", "paraphrases")
"""Those that hold lists of texts."""


def load_samples(stage: str, data: DataConfig) -> list[Sample]:
    """All samples of a stage.

    Raises DatasetError when the file is missing, cannot be fetched, is of an unknown kind or
    damaged, when no format fits its rows, when a row lacks a field, has one of the wrong type or an
    empty one, or gives an id a second time, and when no row is left.
    """
    data = resolve_listed(data)
    origin = data.path or f"{data.dataset}[{data.split}]"
    records = (record for record in read_records(data) if _is_wanted(record, data))
    # the limit counts the rows that are wanted
    limited = itertools.islice(records, data.limit)
    canonical = canonical_records(limited, origin, names_of(data), data.format)
    samples = samples_from_records(stage, canonical)
    if not samples:
        if data.where:
            raise DatasetError(f"{origin}: no rows where {data.where}; check the file and 'where'")
        raise DatasetError(f"{origin}: no rows in it")
    return samples


def load_first_samples(stage: str, data: DataConfig) -> list[Sample]:
    """The samples of the first rows, those that say which format a data set has.

    Raises DatasetError as `load_samples` does, for these rows.
    """
    limit = min(data.limit or FIRST_ROWS, FIRST_ROWS)
    return load_samples(stage, data.model_copy(update={"limit": limit}))


def _is_wanted(record: Record, data: DataConfig) -> bool:
    """Whether a record has the fields that `where` asks for; numbers and text count as equal."""
    return all(str(record.fields.get(name)) == str(value) for name, value in data.where.items())


def samples_from_records(stage: str, records: Iterable[Record]) -> list[Sample]:
    """The samples of a stage, in order.

    Raises DatasetError when a record is none, see `sample_from_record`, when an id comes a second
    time, and when some rows are messages, some prompts with completions and some plain text.
    """
    samples = list[Sample]()
    place_by_id = dict[str, str]()
    for record in records:
        sample = sample_from_record(record.fields, stage, record.number, record.where)
        if sample.id in place_by_id:
            raise DatasetError(
                f"{record.where}: id '{sample.id}' was given in {place_by_id[sample.id]}; "
                "make ids unique or leave them out"
            )
        if samples and _form(sample) != _form(samples[0]):
            raise DatasetError(
                f"{record.where}: {_form(sample)}, but {place_by_id[samples[0].id]} is "
                f"{_form(samples[0])}; the rows of a stage have one form, split the file"
            )
        place_by_id[sample.id] = record.where
        samples.append(sample)
    return samples


def _form(sample: Sample) -> str:
    """What kind of row a sample was, as messages name it."""
    if not isinstance(sample.prompt, str):
        return "a conversation"
    return "plain text" if asks_nothing(sample.prompt) else "a prompt with its completion"


def sample_from_record(fields: dict[str, Any], stage: str, row: int, where: str) -> Sample:
    """One record as a sample.

    It has `prompt` and `completion`, or `messages` with an assistant turn last, or plain `text`, of
    which every token is to be learned; with messages also `tools` and `chat_template_kwargs`.
    `row` is its number in the file, counted from 1, for a record without `id`; `where` its place in
    messages. Fields that are None count as left out. Raises DatasetError when a field is missing,
    empty or of the wrong type.
    """
    # a table has None where another row has the field
    rest = {name: value for name, value in fields.items() if value is not None}
    prompt, completion, completion_turns = _take_turns(rest, where)
    options = _take_list(rest, "options", where)
    probes = _take_list(rest, "probes", where)
    paraphrases = _take_list(rest, "paraphrases", where)
    sample_id = rest.pop("id", f"{stage}/{row}")
    if not isinstance(sample_id, str | int) or sample_id == "":
        raise DatasetError(f"{where}: id must be text or a whole number, got {sample_id!r}")
    try:
        return Sample(
            id=str(sample_id),
            stage=stage,
            prompt=prompt,
            completion=completion,
            completion_turns=completion_turns,
            options=tuple(options) or None,
            probes=tuple(probes),
            paraphrases=tuple(paraphrases),
            source=rest.pop("source", None),
            metadata=rest,
            place=where,
        )
    except ValidationError as error:
        raise DatasetError(describe_error(error, Sample, where)) from None
    except TypeError as error:
        raise DatasetError(f"{where}: {error}") from None


def samples_digest(samples: Iterable[Sample]) -> str:
    """SHA-256 over the samples in order: the same data has the same digest on any machine.

    Where the rows were read does not count, nor how they divide turns that are asked.
    """
    # sorted, as fields of the metadata may come in any order
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(
            json.dumps(
                sample.model_dump(exclude={"place", "completion_turns"}),
                sort_keys=True,
                default=str,
            ).encode()
        )
    return digest.hexdigest()


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

    rows = [_table_row(sample) for sample in samples]
    types = dict.fromkeys(TEXT_COLUMNS, pa.string())
    types["conversational"] = pa.bool_()
    types.update(dict.fromkeys(LIST_COLUMNS, pa.list_(pa.string())))
    # where there are rows, their columns are in the order of `_table_row`
    names = rows[0] if rows else types
    schema = pa.schema([(name, types[name]) for name in names])
    return pa.Table.from_pylist(rows, schema=schema)


def _table_row(sample: Sample) -> dict[str, Any]:
    probes = [probe.model_dump() for probe in sample.probes]
    prompt = sample.prompt
    is_text = isinstance(prompt, str)
    tools = () if isinstance(prompt, str) else prompt.tools
    template_kwargs = {} if isinstance(prompt, str) else prompt.template_kwargs
    return {
        "sample_id": sample.id,
        "stage": sample.stage,
        "conversational": not is_text,
        "prompt": _encode_text(sample.prompt),
        "completion": _encode_text(sample.completion),
        "tools": json.dumps(tools, ensure_ascii=False, default=str),
        "chat_template_kwargs": json.dumps(template_kwargs, ensure_ascii=False, default=str),
        "options": sample.options,
        "probes": json.dumps(probes, ensure_ascii=False),
        "paraphrases": sample.paraphrases,
        "source": sample.source,
        "metadata": json.dumps(sample.metadata, ensure_ascii=False, default=str),
        "place": sample.place,
    }


def _encode_text(text: Text) -> str:
    """Text as it is, messages as JSON."""
    if isinstance(text, str):
        return text
    return json.dumps(text.as_dicts(), ensure_ascii=False, default=str)


def samples_from_table(table: pa.Table) -> list[Sample]:
    """The samples that `samples_to_table` wrote."""
    samples = []
    for row in table.to_pylist():
        tools, template_kwargs = row.pop("tools"), row.pop("chat_template_kwargs")
        if row.pop("conversational"):
            row["prompt"] = {
                "turns": json.loads(row["prompt"]),
                "tools": json.loads(tools),
                "template_kwargs": json.loads(template_kwargs),
            }
            row["completion"] = json.loads(row["completion"])
        row["id"] = row.pop("sample_id")
        row["probes"] = json.loads(row["probes"])
        row["metadata"] = json.loads(row["metadata"])
        samples.append(Sample.model_validate(row))
    return samples


class _Turns(NamedTuple):
    """What a record trains: what the model is given, and what it is to answer."""

    prompt: Text
    completion: Text
    completion_turns: int = 1


def _take_turns(fields: dict[str, Any], where: str) -> _Turns:
    """The prompt and the completion of a record, taken out of its fields."""
    tools = _take_objects(fields, "tools", where)
    template_kwargs = fields.pop("chat_template_kwargs", {})
    turns = _take_bare_turns(fields, where)
    if isinstance(turns.prompt, str):
        if tools:
            raise DatasetError(
                f"{where}: 'tools' beside plain text, which shows them to no model; "
                "give the row as 'messages'"
            )
        return turns
    if not isinstance(template_kwargs, dict):
        raise DatasetError(
            f"{where}: chat_template_kwargs must be an object, got {template_kwargs!r}"
        )
    options = {"tools": tuple(tools), "template_kwargs": template_kwargs}
    return turns._replace(prompt=turns.prompt.model_copy(update=options))


def _take_bare_turns(fields: dict[str, Any], where: str) -> _Turns:
    """As `_take_turns`, without what the chat template is given beside the turns."""
    if "messages" in fields:
        turns = _parse_list(fields.pop("messages"), "messages", where)
        return _split_last_turn(_parse_messages(turns, "messages", where), where)
    if "text" in fields and "completion" not in fields:
        return _Turns("", _take_plain_text(fields, where))
    prompt = _take_text(fields, "prompt", where)
    completion = _take_text(fields, "completion", where)
    if isinstance(prompt, str) and isinstance(completion, str):
        return _Turns(prompt, completion)
    if isinstance(prompt, str) or isinstance(completion, str):
        raise DatasetError(f"{where}: prompt and completion must both be text or both be messages")
    # of a completion of several turns, all but the last are asked
    turns = _split_last_turn(prompt.turns + completion.turns, where)
    return turns._replace(completion_turns=len(completion.turns))


def _take_plain_text(fields: dict[str, Any], where: str) -> str:
    """The field `text`, every token of which is to be learned, taken out of the fields."""
    text = fields.pop("text")
    if not isinstance(text, str):
        raise DatasetError(f"{where}: text must be text, got {type(text).__name__}")
    if not text.strip():
        raise DatasetError(f"{where}: text is empty; fill it in or remove the row")
    return text


def _take_text(fields: dict[str, Any], name: str, where: str) -> Text:
    """The field `name` as text or messages with something in them, taken out of the fields."""
    if name not in fields:
        raise DatasetError(
            f"{where}: no '{name}'; a row needs 'prompt' and 'completion', 'messages', or 'text'"
        )
    value = fields.pop(name)
    # a list is a conversation; of one, a turn may be empty, but not all
    text: Text
    if isinstance(value, list):
        turns = _parse_messages(value, name, where)
        text = Conversation(turns=turns)
        is_empty = not any(_says_something(turn) for turn in turns)
    elif isinstance(value, str):
        text = value
        is_empty = not value.strip()
    else:
        raise DatasetError(
            f"{where}: {name} must be text or a list of messages, got {type(value).__name__}; "
            "write it as text, or remove the row"
        )
    if is_empty:
        raise DatasetError(f"{where}: {name} is empty; fill it in or remove the row")
    return text


def _split_last_turn(turns: tuple[Message, ...], where: str) -> _Turns:
    """A conversation as what comes before its last turn, the assistant's, and that turn."""
    if len(turns) < 2 or turns[-1].role != "assistant":
        raise DatasetError(
            f"{where}: messages must be a conversation that ends with an assistant turn; take out "
            "what stands behind its last answer, or remove the row"
        )
    if not _says_something(turns[-1]):
        raise DatasetError(
            f"{where}: the last assistant turn is empty; fill it in or remove the row"
        )
    return _Turns(Conversation(turns=turns[:-1]), Conversation(turns=turns[-1:]))


def _says_something(turn: Message) -> bool:
    """Whether a turn has words: in its content, its calls, or a field such as its reasoning."""
    if turn.text.strip():
        return True
    others = (turn.model_extra or {}).values()
    return any(isinstance(value, str) and value.strip() for value in others)


def _parse_messages(turns: Sequence[Any], name: str, where: str) -> tuple[Message, ...]:
    messages = []
    for number, turn in enumerate(turns):
        place = f"{where}: {name}[{number}]"
        if not isinstance(turn, dict):
            raise DatasetError(f"{place} must be {{'role': ..., 'content': ...}}, got {turn!r}")
        try:
            message = Message.model_validate(turn)
        except ValidationError:
            raise DatasetError(
                f"{place} must have text as 'role' and as 'content', got {_shown(turn)}"
            ) from None
        if message.content is None and not (message.model_extra or {}):
            raise DatasetError(f"{place} has no 'content'; fill it in or remove the row")
        messages.append(message)
    return tuple(messages)


def _shown(value: Any) -> str:
    """A value as JSON in at most MAX_SHOWN characters."""
    shown = json.dumps(value, ensure_ascii=False, default=str)
    return shown if len(shown) <= MAX_SHOWN else f"{shown[:MAX_SHOWN]} ..."


def _take_objects(fields: dict[str, Any], name: str, where: str) -> Sequence[dict[str, Any]]:
    """The field `name`, a list of objects, taken out of the fields; () where there is none."""
    values = _take_list(fields, name, where)
    if not all(isinstance(value, dict) for value in values):
        raise DatasetError(f"{where}: {name} must be a list of objects, got {_shown(values)}")
    return values


def _take_list(fields: dict[str, Any], name: str, where: str) -> Sequence[Any]:
    """The field `name`, a list, taken out of the fields; () where there is none."""
    return _parse_list(fields.pop(name, ()), name, where)


def _parse_list(value: Any, name: str, where: str) -> Sequence[Any]:
    """A list given as such, or as JSON text where the file format (CSV) has no lists."""
    if isinstance(value, str):
        try:
            value = parse_json(value)
        except (json.JSONDecodeError, DuplicateKeyError):
            raise DatasetError(
                f"{where}: {name} must be a list (in CSV: a JSON list), got {value!r}"
            ) from None
    if not isinstance(value, list | tuple):
        raise DatasetError(f"{where}: {name} must be a list, got {value!r}")
    return value
