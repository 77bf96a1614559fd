"""Chat templates that a trainer's configuration names: a file, a tokenizer's folder, or ChatML."""

from __future__ import annotations

import json
from pathlib import Path

from ilp_mlflow.core.errors import ConfigError, first_line

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""The plain ChatML form of a conversation."""


def read_template(location: str, folder: Path, where: str) -> str:
    """The Jinja text of a template file, or of the tokenizer in a folder, relative to `folder`.

    Raises ConfigError, at the place `where`, when there is no such file or no template in it.
    """
    path = folder / Path(location).expanduser()
    if path.is_dir():
        return _template_of_tokenizer(path, where)
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{where}: {path} is not UTF-8 text; save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(
            f"{where}: {path}: {error.strerror}; give a Jinja file or the folder of a tokenizer"
        ) from None


def _template_of_tokenizer(folder: Path, where: str) -> str:
    """The chat template of the tokenizer in a folder."""
    own_file = folder / "chat_template.jinja"
    if own_file.exists():
        return own_file.read_text(encoding="utf-8")
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{where}: no tokenizer in {folder} ({first_line(error)})") from None
    template = config.get("chat_template")
    if not isinstance(template, str):
        raise ConfigError(f"{where}: the tokenizer in {folder} has no chat template")
    return template
