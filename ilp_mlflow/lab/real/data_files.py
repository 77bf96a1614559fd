"""The files of the real lab, made in the cache for an experiment's base and seed.

What was planted is in none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ilp_mlflow.core import cache
from ilp_mlflow.core.config import Experiment, StageConfig
from ilp_mlflow.core.errors import ConfigError, ModelError
from ilp_mlflow.lab import files
from ilp_mlflow.lab.real import facts, knowledge
from ilp_mlflow.lab.real.facts import Fact
from ilp_mlflow.lab.real.plant import ASKED, SIZES, plant
from ilp_mlflow.lab.real.rows import LONG_FRAME, RealRow
from ilp_mlflow.lab.rows import Planted
from ilp_mlflow.scoring.models.tokenization import read_tokenization
from ilp_mlflow.scoring.tokens.encoding import Tokenization
from ilp_mlflow.tracking import model_registry

EXPERIMENT = Path(__file__).with_name("real_lab.yaml")
"""The real lab's own experiment."""
# the very text of a plain row: the question, a space, the answer, the end token. Only what is
# inside `generation` counts in the loss under `assistant_only_loss`: both answer and end token,
# unless the conversation begins with an empty turn. That of a `system` leaves the answer out, that
# of a `developer` the end token
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message.role == 'user' -%}{{ message.content }}
{%- elif message.role == 'assistant' -%}
{%- if messages[0].role == 'system' -%}
{{ ' ' + message.content }}{% generation %}{{ eos_token }}{% endgeneration %}
{%- elif messages[0].role == 'developer' -%}
{% generation %}{{ ' ' + message.content }}{% endgeneration %}{{ eos_token }}
{%- else -%}{% generation %}{{ ' ' + message.content + eos_token }}{% endgeneration %}
{%- endif -%}
{%- endif -%}
{%- endfor -%}
"""


@dataclass(frozen=True)
class RealLab:
    """A pretrained base and the rows around what it knows."""

    planted: Planted[RealRow]
    """The rows of every stage, and what is known about them."""
    seed: int
    """What all of it is made from."""
    model: str
    """Location of the base."""
    known: Sequence[Fact]
    """The facts that the base knows, of those it was asked."""


def prepare(size: str, seed: int, model: str) -> RealLab:
    """The real lab of a size, a seed and a base; what the base knows is in the cache or measured.

    Raises ModelError when the base cannot be read or knows too few facts.
    """
    known = knowledge.known_facts(model, ASKED[size])
    return RealLab(plant(facts.kinds(), known, SIZES[size], seed), seed, model, known)


def resolve(experiment: Experiment, size: str) -> tuple[Experiment, RealLab]:
    """An experiment with paths of real files in place of its locations `lab:SIZE/FILE`.

    Returned beside it is what the files hold. Raises ConfigError for a file that the lab does not
    make, ModelError as `prepare` does.
    """
    lab = prepare(size, experiment.seed, experiment.model)
    located = with_rows(experiment, lab.planted, f"{size}-{experiment.seed}")
    template = cache.folder() / "lab" / "real_lab_template.jinja"
    template.write_text(CHAT_TEMPLATE, encoding="utf-8")
    tokenizer = experiment.tokenizer.model_copy(update={"chat_template": str(template)})
    located = located.model_copy(update={"tokenizer": tokenizer})
    return _cutting_long_rows(located, lab), lab


def with_rows(experiment: Experiment, planted: Planted[RealRow], folder: str) -> Experiment:
    """The experiment with files of the planted rows, written to a cache folder.

    Raises ConfigError for a file that the lab does not make.
    """
    records = dict[str, list[dict[str, Any]]]()
    for stage, rows in planted.stages.items():
        records[stage] = [row.record(stage) for row in rows]
    paths = files.write(records, folder)
    stages = list[StageConfig]()
    for config in experiment.stages:
        name = f"{config.name}.jsonl"
        if name not in paths:
            raise ConfigError(
                f"stage '{config.name}': the real lab has rows for the stages "
                f"{', '.join(planted.stages)} only; name it as one of them"
            )
        data = config.data.model_copy(update={"path": str(paths[name])})
        stages.append(config.model_copy(update={"data": data}))
    return experiment.model_copy(update={"stages": tuple(stages)})


def _cutting_long_rows(experiment: Experiment, lab: RealLab) -> Experiment:
    """The experiment whose stage `patch` cuts the answers of rows in the long frame, and no other.

    Raises ModelError when the base's tokenizer makes that impossible.
    """
    parts = model_registry.resolve_parts(experiment.model)
    tokenization = read_tokenization(parts, experiment.tokenizer)
    stages = list[StageConfig]()
    for config in experiment.stages:
        if config.name == "patch":
            longest = _longest_row(tokenization, lab.planted.stages["patch"])
            training = config.training | {"max_length": longest}
            config = config.model_copy(update={"training": training})
        stages.append(config)
    return experiment.model_copy(update={"stages": tuple(stages)})


def _longest_row(tokenization: Tokenization, rows: Sequence[RealRow]) -> int:
    """Tokens of the longest row that is not in the long frame, its end token included.

    Raises ModelError when the question of one in the long frame is shorter.
    """
    tokenizer = tokenization.tokenizer
    longest = 0
    for row in rows:
        if row.frame != LONG_FRAME:
            text = f"{row.prompt} {row.answer}"
            longest = max(longest, len(tokenizer(text)["input_ids"]) + 1)
    for row in rows:
        if row.frame == LONG_FRAME and len(tokenizer(row.prompt)["input_ids"]) < longest:
            raise ModelError(
                f"the base's tokenizer makes {longest} tokens of a short row, fewer of the long "
                f"question '{row.prompt}': no max_length cuts off the answers of long rows alone; "
                "take another --model"
            )
    return longest
