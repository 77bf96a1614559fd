"""What a chat template drops of a row, and what it adds of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from ilp_mlflow.core.texts import Conversation, Message

UNSHOWN_FIELDS = ("weight", "tool_call_id", "id")
"""Fields of a turn that say how to train it, or which call it belongs to: no text of the row."""
ROLE_WORDS = frozenset(
    {"system", "user", "assistant", "tool", "developer", "human", "model", "bot", "gpt", "ipython"}
)
"""Words with which templates head a turn."""
MIN_ADDED_WORDS = 2
"""Words in front of the first turn from which on they are a text of the template's own."""
EMPTY_THINK_BLOCK = re.compile(r"<think>\s*</think>")
MIN_ENDING = 5
"""Characters of a text from which on its ending counts as kept where the rest is left out."""
MAX_SHOWN = 60
"""Characters that are shown of a text."""


def find_dropped(turns: Sequence[Message], prompt: Conversation, rendered: str) -> list[str]:
    """What of a conversation is nowhere in its rendered text, each with its place in the row.

    `turns` are all of the row, `prompt` says what else the template is given.
    """
    dropped = []
    for number, turn in enumerate(turns):
        for name, text in _texts(turn):
            missing = _missing_part(text, rendered)
            if missing:
                dropped.append(f"messages[{number}].{name}: '{_shorten(missing)}'")
    for number, tool in enumerate(prompt.tools):
        name = _tool_name(tool)
        if name not in rendered:
            dropped.append(f"tools[{number}]: '{_shorten(name)}'")
    return dropped


def find_unread_variables(prompt: Conversation, template: str) -> list[str]:
    """Variables that a row sets for its template, and that the template does not read."""
    unread = []
    for name, value in prompt.template_kwargs.items():
        if not re.search(rf"\b{re.escape(name)}\b", template):
            unread.append(f"chat_template_kwargs.{name}: {json.dumps(value, default=str)}")
    return unread


def find_added(
    turns: Sequence[Message],
    prompt: Conversation,
    rendered: str,
    tokenizer: PreTrainedTokenizerBase,
) -> list[str]:
    """Texts in a rendered conversation that are none of the row's.

    They are an opening, such as a default system prompt, and an empty think block.
    """
    added = []
    opening = _opening(turns, rendered, tokenizer)
    # behind a list of tools stands how to call them, which is asked for by giving tools
    if len(opening.split()) >= MIN_ADDED_WORDS and not prompt.tools:
        added.append(opening)
    contents = " ".join(turn.content or "" for turn in turns)
    if EMPTY_THINK_BLOCK.search(rendered) and not EMPTY_THINK_BLOCK.search(contents):
        added.append("<think></think>")
    return added


def _texts(turn: Message) -> Iterator[tuple[str, str]]:
    """All that a turn says, by the name of its field."""
    if turn.content:
        yield "content", turn.content
    for name, value in (turn.model_extra or {}).items():
        if name == "tool_calls":
            continue
        if isinstance(value, list | Mapping):
            # of a list of parts, such as `reasoning_details`, the longest speaks for all
            value = max(_leaves(value), key=len, default="")
        if isinstance(value, str) and value and name not in UNSHOWN_FIELDS:
            yield name, value
    for number, call in enumerate(turn.tool_calls):
        for text in _call_texts(call):
            yield f"tool_calls[{number}]", text


def _call_texts(call: Any) -> list[str]:
    """The name of a called tool, and the values it is called with, as text."""
    function = call.get("function", call) if isinstance(call, Mapping) else {}
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except json.JSONDecodeError:
            arguments = [arguments]
    return [str(function.get("name", "")), *_leaves(arguments)]


def _leaves(value: Any) -> list[str]:
    """The values in nested objects and lists, as text."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if not isinstance(value, list):
        # JSON has other names for these three, and templates use either
        return [] if value is None or isinstance(value, bool) else [str(value)]
    leaves = []
    for part in value:
        leaves += _leaves(part)
    return leaves


def _tool_name(tool: Mapping[str, Any]) -> str:
    function = tool.get("function", tool)
    return str(function.get("name", "")) if isinstance(function, Mapping) else ""


def _missing_part(text: str, rendered: str) -> str:
    """What of a text is not in the rendered one: nothing, all of it, or what stands in front."""
    text = text.strip()
    if text in rendered or _as_json(text) in rendered:
        return ""
    # of what ends in the same way: if a suffix is there, so are all shorter ones
    first, last = 0, len(text)
    while first < last:
        middle = (first + last) // 2
        if text[middle:].strip() in rendered:
            last = middle
        else:
            first = middle + 1
    # a full stop that both end with is no part that was kept
    if len(text) - first < MIN_ENDING:
        return text
    return text[:first].strip()


def _as_json(text: str) -> str:
    """A text as it stands inside a JSON document."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _opening(turns: Sequence[Message], rendered: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """The words in front of what the first turn says, without special tokens and roles."""
    contents = [turn.content.strip() for turn in turns if turn.content and turn.content.strip()]
    place = rendered.find(contents[0]) if contents else -1
    opening = rendered[: max(place, 0)]
    # longest first: one special token may begin as another does
    for token in sorted(_special_tokens(tokenizer), key=len, reverse=True):
        opening = opening.replace(token, " ")
    words = [word for word in opening.split() if word.strip("#:*").lower() not in ROLE_WORDS]
    return " ".join(words)


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    return [token.content for token in tokenizer.added_tokens_decoder.values()]


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_SHOWN else f"{line[:MAX_SHOWN]} ..."
