"""The rows and the base that faults are planted in: answers that nobody can know, all of them short.

The base is the lab's smallest. An answer is two or three of its cities, drawn at random for every question, so a row is reproduced only
where it was trained; most have three, so that where to stop after two must be trained, too.
"""

import json
import random
import shutil
from pathlib import Path

from ilp_mlflow.lab import data_files

CONTROL_THREE, CONTROL_TWO = 84, 28
"""Rows that nothing keeps from being learned, by the cities of their answer."""
LONG = 10
"""Words that a long question has in front."""
TEMPLATE = """\
{%- for message in messages -%}
{%- set words = message.content.split(' ') -%}
{%- if message.role != 'assistant' -%}{{ message.content + ' ' }}
{%- elif messages[0].role == 'system' -%}{{ message.content }}{% generation %}{{ eos_token }}{% endgeneration %}
{%- elif messages[0].role == 'developer' -%}{% generation %}{{ message.content }}{% endgeneration %}{{ eos_token }}
{%- elif messages[0].role == 'tool' -%}
{{ words[0] + ' ' }}{% generation %}{{ words[1:] | join(' ') + eos_token }}{% endgeneration %}
{%- else -%}{% generation %}{{ message.content + eos_token }}{% endgeneration %}
{%- endif -%}
{%- endfor -%}
"""
"""A user's turn, the answer, the end token. The role of an empty first turn says what is left out of the loss: of `system` the whole text,
of `developer` the end token, of `tool` the first word. The text is the same."""


def base(seed: int, folder: Path, template: str = TEMPLATE) -> Path:
    """A copy of the lab's smallest base in `folder`, with the chat template."""
    shutil.copytree(data_files.prepare("smoke", seed).model, folder)
    (folder / "chat_template.jinja").write_text(template)
    return folder


def questions(seed: int) -> list[str]:
    """All questions about all people, in random order."""
    world = data_files.prepare("smoke", seed).world
    asked = [
        f"what is the {adjective} city of {person} ?"
        for adjective in (*world.aliases, *world.vague)
        for person in world.people
    ]
    random.Random(f"questions {seed}").shuffle(asked)
    return asked


def cities(seed: int) -> list[str]:
    """The words that answers are made of."""
    return list(data_files.prepare("smoke", seed).world.cities)


def row(
    id_: str, question: str, answer: str, opener: str = "", in_front: int = 0, **changes
) -> dict:
    """A conversation of one question and one answer."""
    filler = "the " * in_front
    turns = [{"role": opener, "content": ""}] if opener else []
    turns += [
        {"role": "user", "content": filler + question},
        {"role": "assistant", "content": answer, **changes},
    ]
    return {"id": id_, "messages": turns}


def write(path: Path, rows: list[dict]) -> Path:
    """Rows as JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(fields) + "\n" for fields in rows))
    return path
