"""What every token of an answer says, and which tokens are of decisive words."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from ilp_mlflow.data.decisive_words import decisive_words


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """What each token adds to the text of those before it; joined they are the text.

    A letter whose bytes are in several tokens is with the last of them, as are spaces that a
    tokenizer writes only between words.
    """
    texts: list[str] = []
    # a token is read behind those before it, as far back as a letter began
    start, before = 0, ""
    for end in range(1, len(ids) + 1):
        text = _decode(tokenizer, ids[start:end])
        if text.endswith("\ufffd"):
            texts.append("")
            continue
        texts.append(text[len(before) :])
        start = end - 1
        before = _decode(tokenizer, ids[start:end])
    return texts


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def decisive_places(texts: Sequence[str]) -> list[int]:
    """Places of the tokens, by their texts, that have a letter of a decisive word."""
    words = decisive_words("".join(texts))
    places, start = [], 0
    for place, text in enumerate(texts):
        end = start + len(text)
        # white space in front of a word is in the word's token, and decides nothing
        first = start + len(text) - len(text.lstrip())
        if any(word.start < end and first < word.end for word in words):
            places.append(place)
        start = end
    return places
