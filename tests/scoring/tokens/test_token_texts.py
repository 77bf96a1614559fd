import pytest

from ilp_mlflow.scoring.tokens.token_texts import decisive_places, token_texts

TEXT = "It costs 1,000 dollars, but Pierre does not pay."


def test_texts_of_tokens_are_the_text(tiny_model):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    for text in (TEXT, "caf\u00e9 \u2603 \U0001f600 end", "  two  spaces\n\nlines"):
        ids = tokenizer(text)["input_ids"]
        texts = token_texts(tokenizer, ids)
        assert len(texts) == len(ids)
        assert "".join(texts) == tokenizer.decode(ids, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 50])
def test_tokens_are_decisive_where_a_letter_of_such_a_word_is_in_them(size):
    texts = [TEXT[start : start + size] for start in range(0, len(TEXT), size)]
    decisive = "".join(texts[place] for place in decisive_places(texts))
    for word in ("1,000", "Pierre", "not"):
        assert word in decisive.replace(" ", "") or size < len(word)
    if size == 1:
        assert decisive == "1,000Pierrenot"
