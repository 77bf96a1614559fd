"""Data sets as LLaMA-Factory and axolotl list them, as our own settings for the same rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ilp_mlflow.core.config import REMOTE_URI, DataConfig
from ilp_mlflow.core.errors import DatasetError, suggest
from ilp_mlflow.core.validation import describe_error

DATASET_INFO = "dataset_info.json"
"""The file in which LLaMA-Factory lists data sets; data sets saved by `datasets` have one, too."""
PREFERENCES = "SFT trains one answer to a prompt; list a data set with the chosen ones as answers"
ALPACA_COLUMNS = {"prompt": "instruction", "query": "input", "response": "output"}
"""LLaMA-Factory's names of columns, with the columns they are unless it says otherwise."""
COMMON_COLUMNS = ("system", "tools", "images", "videos", "audios")
"""Those of any kind of rows, which have no column unless it says so."""
TAGS = {
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}
"""LLaMA-Factory's names of roles, with what the rows call them unless it says otherwise."""
ROLE_BY_TAG = {
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}
MAX_NAMED = 12
"""Data sets, at most, that a message names."""
FILE_TYPES = ("json", "csv", "parquet")
"""Kinds of files that axolotl names by `ds_type`, or as the `path` of `data_files`."""
CHAT_TYPES = ("chat_template", "chat_template.default", "sharegpt")
"""Types of axolotl for conversations."""
KNOWN_TYPES = ("alpaca", "completion", *CHAT_TYPES)
NOT_READ = {
    "message_field_training_detail": "trains parts of a turn",
    "drop_system_message": "leaves system turns out",
    "split_thinking": "takes reasoning out of the content",
    "input_transform": "changes rows",
    "shards": "trains one shard of the rows",
    "revision": "is another state of the data set",
}
"""Options of axolotl that change which tokens are trained, and cannot be said in ours."""


def resolve_listed(data: DataConfig) -> DataConfig:
    """The settings behind `dataset_info.json#NAME`; any others as they are.

    What is set beside the path (fields, limit, ...) stays. Raises DatasetError, see
    `read_dataset_info`, and where the name is left out.
    """
    path = data.path or ""
    if REMOTE_URI.match(path):
        return data
    if Path(path).name == DATASET_INFO:
        raise DatasetError(f"{path}: lists data sets; give {path}#NAME, {_names_in(Path(path))}")
    file, _, name = path.rpartition("#")
    if not file.endswith(".json") or Path(path).exists():
        return data
    listed = read_dataset_info(Path(file), name)
    own = data.model_dump(exclude_unset=True, exclude={"path"})
    own["fields"] = {**listed.fields, **data.fields}
    own["roles"] = {**listed.roles, **data.roles}
    return listed.model_copy(update=own)


def read_dataset_info(path: Path, name: str) -> DataConfig:
    """The data set `name` of LLaMA-Factory's `dataset_info.json`.

    Raises DatasetError when the file is missing or damaged, does not list the name, or when the
    data set is one of preferences, has no file or Hub name, or is said in a way that is not known.
    """
    listed = _read_list(path)
    if name not in listed:
        raise DatasetError(f"{path}: no data set '{name}'; {suggest(name, listed)}")
    entry = listed[name]
    where = f"{path}#{name}"
    columns, tags = (_names(entry, option, where) for option in ("columns", "tags"))
    if entry.get("ranking"):
        raise DatasetError(f"{where}: ranking is true, so its rows are preferences; {PREFERENCES}")
    formatting = entry.get("formatting", "alpaca")
    if formatting == "alpaca":
        shape = _alpaca_columns(columns)
    elif formatting in ("sharegpt", "openai"):
        shape = _turn_columns(columns, tags)
    else:
        raise DatasetError(
            f"{where}: formatting '{formatting}' is not known; use alpaca, sharegpt or openai"
        )
    return _settings(_listed_origin(entry, path.parent, where) | shape, where)


def _names(entry: Mapping[str, Any], option: str, where: str) -> dict[str, str]:
    """An option of a data set that gives names by names. Raises DatasetError for anything else."""
    names = entry.get(option) or {}
    is_names = isinstance(names, dict)
    if not is_names or not all(isinstance(n, str) for n in names.values() if n is not None):
        raise DatasetError(f"{where}: {option} must give names by names, got {json.dumps(names)}")
    return {name: value for name, value in names.items() if value is not None}


def _settings(values: dict[str, Any], where: str) -> DataConfig:
    try:
        return DataConfig.model_validate(values)
    except ValidationError as error:
        raise DatasetError(describe_error(error, DataConfig, where)) from None


def _read_list(path: Path) -> dict[str, Any]:
    """The data sets in a `dataset_info.json`, by name."""
    try:
        listed = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror}; check the path") from None
    except ValueError as error:
        raise DatasetError(f"{path}: not valid JSON ({error}); repair the file") from None
    if not isinstance(listed, dict) or not all(isinstance(e, dict) for e in listed.values()):
        raise DatasetError(f"{path}: not a list of data sets as LLaMA-Factory writes it")
    return listed


def _names_in(path: Path) -> str:
    if not path.exists():
        return "a name in it"
    names = sorted(_read_list(path))
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return f"known are: {', '.join(names[:MAX_NAMED])}{more}"


def _listed_origin(entry: Mapping[str, Any], folder: Path, where: str) -> dict[str, Any]:
    """Where the rows of a listed data set lie."""
    for option in ("num_samples", "folder"):
        if entry.get(option):
            raise DatasetError(
                f"{where}: {option} is set, so it is not known which rows are trained; write those "
                "that are into a file and list that"
            )
    split = entry.get("split") or "train"
    if entry.get("hf_hub_url"):
        return {"dataset": entry["hf_hub_url"], "config": entry.get("subset"), "split": split}
    if not entry.get("file_name"):
        raise DatasetError(
            f"{where}: names no file_name and no hf_hub_url; give its rows as a file"
        )
    return {"path": str(folder / entry["file_name"]), "split": split}


def _alpaca_columns(columns: Mapping[str, str]) -> dict[str, Any]:
    """Format and fields of rows with an instruction."""
    given = columns or ALPACA_COLUMNS
    # rows without answers are texts to read, of which LLaMA-Factory trains every token
    if "response" not in given:
        return {"format": "text", "fields": {"text": given.get("prompt", "")}}
    fields = {ours: given.get(theirs, "") for theirs, ours in ALPACA_COLUMNS.items()}
    fields["history"] = given.get("history") or ""
    return {"format": "alpaca", "fields": fields | _common_columns(given)}


def _turn_columns(columns: Mapping[str, str], tags: Mapping[str, str]) -> dict[str, Any]:
    """Format, fields and roles of rows with turns."""
    fields = {
        "messages": columns.get("messages") or "conversations",
        "role": tags.get("role_tag") or "from",
        "content": tags.get("content_tag") or "value",
    }
    roles = {}
    for tag, role in ROLE_BY_TAG.items():
        # where roles are given, one that is left out does not occur
        written = tags.get(tag) if tags else TAGS[tag]
        if written:
            roles[written] = role
    return {"format": "sharegpt", "fields": fields | _common_columns(columns), "roles": roles}


def _common_columns(columns: Mapping[str, str]) -> dict[str, str]:
    fields = {name: columns.get(name) or "" for name in COMMON_COLUMNS}
    fields["label"] = columns.get("kto_tag") or ""
    return fields


def read_axolotl_datasets(config: Mapping[str, Any], folder: Path) -> list[DataConfig]:
    """The data sets under `datasets:` of an axolotl configuration, in order.

    A path that exists below `folder` is local, any other is on the Hub. Several `data_files` become
    several. Raises DatasetError for preferences (`rl`), and for a type or an option that trains
    other tokens than our settings can say.
    """
    if config.get("rl"):
        raise DatasetError(
            f"datasets: rl is '{config['rl']}', so rows are preferences; {PREFERENCES}"
        )
    entries = config.get("datasets")
    if not isinstance(entries, list) or not entries:
        raise DatasetError("datasets: missing in the axolotl configuration; add it")
    data = []
    for number, entry in enumerate(entries):
        where = f"datasets[{number}]"
        if not isinstance(entry, dict) or not entry.get("path"):
            raise DatasetError(f"{where}: no path; add it")
        for origin in _axolotl_origins(entry, folder, where):
            data.append(_settings(origin | _axolotl_shape(entry, where), where))
    return data


def _axolotl_origins(
    entry: Mapping[str, Any], folder: Path, where: str
) -> Iterator[dict[str, Any]]:
    """Where the rows of an entry lie."""
    path, split = str(entry["path"]), entry.get("split") or "train"
    kind = entry.get("ds_type") or "json"
    if kind not in FILE_TYPES:
        raise DatasetError(f"{where}: ds_type '{kind}' is not read; use {', '.join(FILE_TYPES)}")
    files = entry.get("data_files") or []
    for file in [files] if isinstance(files, str) else files:
        # a data set on the Hub may be told by its files; a kind of files is no place
        below = folder if path in FILE_TYPES else folder / Path(path).expanduser()
        if not (below / file).exists():
            raise DatasetError(f"{where}: data_files {file}: no such file in {below}")
        yield {"path": str(below / file), "split": split}
    if files:
        return
    local = folder / Path(path).expanduser()
    if REMOTE_URI.match(path):
        yield {"path": path, "split": split}
    elif local.exists():
        yield {"path": str(local), "split": split}
    else:
        yield {"dataset": path, "config": entry.get("name"), "split": split}


def _axolotl_shape(entry: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Format, fields and roles of the rows of an entry."""
    for option, meaning in NOT_READ.items():
        if entry.get(option):
            raise DatasetError(
                f"{where}: {option} {meaning}, which is not followed; give the rows as they are "
                "trained"
            )
    kind = entry.get("type")
    if kind == "alpaca":
        return {"format": "alpaca_prompt"}
    if kind == "completion":
        return {"format": "text", "fields": {"text": entry.get("field") or "text"}}
    if kind in CHAT_TYPES:
        return _axolotl_turns(entry, kind, where)
    if isinstance(kind, dict):
        kind = "a prompt of its own"
    elif kind == "input_output":
        kind = "input_output (segments with a label each)"
    raise DatasetError(
        f"{where}: type {kind} is not read; known are {', '.join(KNOWN_TYPES)}; or write rows with "
        "prompt and completion"
    )


def _axolotl_turns(entry: Mapping[str, Any], kind: str, where: str) -> dict[str, Any]:
    old_keys = {"role": "from", "content": "value"} if kind == "sharegpt" else {}
    default_column = "conversations" if kind == "sharegpt" else "messages"
    keys = {
        "role": entry.get("message_field_role") or old_keys.get("role", "role"),
        "content": entry.get("message_field_content") or old_keys.get("content", "content"),
        **_names(entry, "message_property_mappings", where),
    }
    fields = {"messages": entry.get("field_messages") or default_column, **keys}
    for option, field in (
        ("field_system", "system"),
        ("field_tools", "tools"),
        ("message_field_training", "weight"),
        ("field_thinking", entry.get("template_thinking_key") or "reasoning_content"),
    ):
        if entry.get(option, field) != field:
            fields[field] = entry[option]
    return {
        "format": "sharegpt",
        "fields": fields,
        "roles": _inverted(entry.get("roles") or {}, where),
    }


def _inverted(names_by_role: Any, where: str) -> dict[str, str]:
    """The role of each name. Raises DatasetError for what gives no lists of names by role."""
    lists = names_by_role.values() if isinstance(names_by_role, dict) else [None]
    if not all(isinstance(names, list) for names in lists):
        raise DatasetError(
            f"{where}: roles must give a list of names for each role, "
            f"got {json.dumps(names_by_role, default=str)}"
        )
    roles = {}
    for role, names in names_by_role.items():
        for name in names:
            roles[name] = role
    return roles
