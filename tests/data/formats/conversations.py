"""The same ten conversations as each tool would write them to a file."""

import csv
import gzip
import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from tests.conftest import CITIES, LANDS

SYSTEM = "You know capitals."


def exchanges():
    """Ten conversations as (question, answer) pairs; every other one begins with an earlier pair."""
    asked = [
        (f"The capital of {land}?", f"{city}.") for land, city in zip(LANDS, CITIES, strict=True)
    ]
    asked += [("And of Chile?", "Santiago."), ("And of Ghana?", "Accra.")]
    return [[("Ready?", "Yes."), pair] if n % 2 else [pair] for n, pair in enumerate(asked)]


def turns(pairs):
    """A conversation as messages, with a system prompt."""
    found = [{"role": "system", "content": SYSTEM}]
    for question, answer in pairs:
        found.append({"role": "user", "content": question})
        found.append({"role": "assistant", "content": answer})
    return found


def messages_rows():
    return [{"messages": turns(pairs)} for pairs in exchanges()]


def alpaca_rows():
    """As LLaMA-Factory's data/README.md has them."""
    return [
        {
            "instruction": pairs[-1][0],
            "input": "",
            "output": pairs[-1][1],
            "system": SYSTEM,
            "history": [list(pair) for pair in pairs[:-1]],
        }
        for pairs in exchanges()
    ]


def sharegpt_turns(pairs):
    found = []
    for question, answer in pairs:
        found.append({"from": "human", "value": question})
        found.append({"from": "gpt", "value": answer})
    return found


def sharegpt_rows():
    """As LLaMA-Factory's data/README.md has them."""
    return [
        {"conversations": sharegpt_turns(pairs), "system": SYSTEM, "tools": ""}
        for pairs in exchanges()
    ]


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"path": str(path)}


def array(path, rows):
    path.write_text(json.dumps(rows, indent=2))
    return {"path": str(path)}


def trl_messages(folder):
    return lines(folder / "rows.jsonl", messages_rows())


def trl_prompt_completion(folder):
    rows = [{"prompt": t[:-1], "completion": t[-1:]} for t in map(turns, exchanges())]
    return lines(folder / "rows.jsonl", rows)


def trl_chatml(folder):
    rows = []
    for pairs in exchanges():
        old = [{"from": turn["role"], "value": turn["content"]} for turn in turns(pairs)]
        rows.append({"conversations": old})
    return lines(folder / "rows.jsonl", rows)


def json_lines_called_json(folder):
    return lines(folder / "rows.json", messages_rows())


def zipped(folder):
    with gzip.open(folder / "rows.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in messages_rows())
    return {"path": str(folder / "rows.jsonl.gz")}


def alpaca(folder):
    return array(folder / "rows.json", alpaca_rows())


def sharegpt(folder):
    return array(folder / "rows.json", sharegpt_rows())


def sharegpt_system_turn(folder):
    rows = []
    for pairs in exchanges():
        first = {"from": "system", "value": SYSTEM}
        rows.append({"id": None, "conversations": [first, *sharegpt_turns(pairs)]})
    return array(folder / "rows.json", rows)


def openai(folder):
    rows = []
    for pairs in exchanges():
        written = turns(pairs)
        for turn in written:
            turn["content"] = [{"type": "text", "text": turn["content"]}]
        rows.append({"messages": written, "parallel_tool_calls": True})
    return lines(folder / "rows.jsonl", rows)


def listed_alpaca(folder):
    array(folder / "demo.json", alpaca_rows())
    columns = {"prompt": "instruction", "query": "input", "response": "output"}
    columns |= {"system": "system", "history": "history"}
    listed = {"demo": {"file_name": "demo.json", "columns": columns}}
    array(folder / "dataset_info.json", listed)
    return {"path": f"{folder / 'dataset_info.json'}#demo"}


def listed_openai(folder):
    lines(folder / "demo.jsonl", messages_rows())
    tags = {"role_tag": "role", "content_tag": "content", "system_tag": "system"}
    tags |= {"user_tag": "user", "assistant_tag": "assistant"}
    entry = {"file_name": "demo.jsonl", "formatting": "sharegpt", "tags": tags}
    listed = {"demo": entry | {"columns": {"messages": "messages"}}}
    array(folder / "dataset_info.json", listed)
    return {"path": f"{folder / 'dataset_info.json'}#demo"}


def columns_of_other_names(folder):
    rows = [{"chat": turns(pairs), "quality": 3} for pairs in exchanges()]
    return lines(folder / "rows.jsonl", rows) | {"fields": {"messages": "chat"}}


def roles_of_other_names(folder):
    rows = []
    for pairs in exchanges():
        names = {"user": "customer", "assistant": "agent", "system": "system"}
        chat = [{"who": names[t["role"]], "said": t["content"]} for t in turns(pairs)]
        rows.append({"chat": chat})
    fields = {"messages": "chat", "role": "who", "content": "said"}
    roles = {"customer": "user", "agent": "assistant"}
    return lines(folder / "rows.jsonl", rows) | {"fields": fields, "roles": roles}


def csv_of_json(folder):
    with (folder / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["messages"])
        writer.writerows([json.dumps(row["messages"])] for row in messages_rows())
    return {"path": str(folder / "rows.csv")}


def parquet_shards(folder):
    (folder / "shards").mkdir()
    for n, part in enumerate((messages_rows()[:4], messages_rows()[4:])):
        name = f"train-{n:05d}-of-00002.parquet"
        pq.write_table(pa.Table.from_pylist(part), folder / "shards" / name)
    return {"path": str(folder / "shards")}


def pattern(folder):
    lines(folder / "b.jsonl", messages_rows()[6:])
    lines(folder / "a.jsonl", messages_rows()[:6])
    return {"path": str(folder / "*.jsonl")}


def saved_split(folder):
    rows = datasets.Dataset.from_list(messages_rows())
    splits = {"train": rows.select(range(3)), "extra": rows}
    datasets.DatasetDict(splits).save_to_disk(folder / "saved")
    return {"path": str(folder / "saved"), "split": "extra"}


WRITERS = (
    trl_messages,
    trl_prompt_completion,
    trl_chatml,
    json_lines_called_json,
    zipped,
    alpaca,
    sharegpt,
    sharegpt_system_turn,
    openai,
    listed_alpaca,
    listed_openai,
    columns_of_other_names,
    roles_of_other_names,
    csv_of_json,
    parquet_shards,
    pattern,
    saved_split,
)
