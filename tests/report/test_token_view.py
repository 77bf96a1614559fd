from ilp_mlflow.report.token_view import TokenView, token_lines


def token(text, p=0.9, first_choice=None, p_first_choice=None):
    return TokenView(
        text=text, p=p, p_base=0.1, first_choice=first_choice, p_first_choice=p_first_choice
    )


TOKENS = (token("There are "), token("53", 0.25, "57", 0.5), token(" people."))


def lines(tokens, coloured=False):
    return token_lines(tokens, lambda text, colour: f"<{colour}>{text}</>", coloured)


def test_misses_are_marked_and_what_the_model_says_is_named():
    text = "\n".join(lines(TOKENS))
    assert text.startswith("1 token is not the model's first choice:")
    assert "There are <<53>> people." in text
    assert "'53' (0.25, base 0.10): the model says '57' (0.50)" in text
    assert "There are <red>53</> people." in "\n".join(lines(TOKENS, coloured=True))


def test_without_misses_there_is_nothing_to_say():
    assert lines(TOKENS[:1]) == []
    assert lines(()) == []


def test_of_many_misses_some_are_listed():
    text = "\n".join(lines([token("a", 0.1, "b", 0.2)] * 20))
    assert text.startswith("20 tokens are not")
    assert text.count("the model says") == 12
    assert "and 8 more" in text


def test_a_terminal_gets_no_commands_from_a_token():
    assert "\x1b" not in "\n".join(lines([token("a\x1b[2J", 0.1, "\x1b[0m", 0.2)]))
