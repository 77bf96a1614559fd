"""Rows with an instruction, an input and an output, as models without a chat template are trained.

The prompt is Stanford Alpaca's, as axolotl writes it for `type: alpaca` (src/axolotl/prompters.py
there); the completion is the output.
"""

from __future__ import annotations

from typing import Any

from ilp_mlflow.data.formats.alpaca import require
from ilp_mlflow.data.formats.names import Names
from ilp_mlflow.data.formats.parts import take_text

WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
WITHOUT_INPUT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.\n\n### Instruction:\n{instruction}\n\n### Response:\n"
)


def convert(fields: dict[str, Any], where: str, names: Names) -> dict[str, Any]:
    """A row as `prompt` and `completion`.

    Raises DatasetError when the instruction or the output is empty, or one is no text.
    """
    row = dict(fields)
    instruction = require(take_text(row, "instruction", where, names), "instruction", where, names)
    added = take_text(row, "input", where, names)
    output = require(take_text(row, "output", where, names), "output", where, names)
    prompt = WITH_INPUT if added else WITHOUT_INPUT
    row["prompt"] = prompt.format(instruction=instruction, input=added)
    row["completion"] = output
    # it would be read before these
    row.pop("messages", None)
    return row
