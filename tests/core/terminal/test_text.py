from rich.cells import cell_len

from ilp_mlflow.core.terminal.text import format_table, wrap


def test_text_is_wrapped_by_the_columns_it_takes():
    lines = wrap("長い" * 50, indent=2, hang=2)
    assert max(map(cell_len, lines)) <= 80
    assert "".join(line.strip() for line in lines) == "長い" * 50
    assert [len(line) - len(line.lstrip()) for line in lines] == [2, 4, 4]


def test_short_text_stays_one_line():
    text = f"{'name':<20} models:/{'x' * 49}/1"
    assert wrap(text, hang=21) == [text]


def test_the_last_line_that_is_shown_says_that_there_is_more():
    lines = wrap("word " * 200, 2, 2, max_lines=6)
    assert len(lines) == 6
    assert lines[-1].endswith(" ...")
    assert max(map(len, lines)) <= 80


def test_what_a_terminal_would_obey_is_not_printed():
    assert wrap("a\x1b[31mb\x07") == ["a\ufffd[31mb\ufffd"]


def test_columns_that_do_not_fit_go_on_below():
    names = [f"stage number {i}" for i in range(12)]
    lines = format_table([["learned, % of", *names], *([name, *["100%"] * 12] for name in names)])
    assert max(map(len, lines)) <= 80
    heads = [line for line in lines if line.startswith("learned, % of")]
    assert [
        word for line in heads for word in line.removeprefix("learned, % of").strip().split("  ")
    ] == names


def test_a_long_cell_goes_on_in_the_next_line():
    lines = format_table([["name", "x"], ["n" * 30, "1"]])
    assert lines == [f"{'name':<25}  x", f"{'n' * 25}  1", "n" * 5]


def test_a_cell_is_shown_as_it_is():
    assert format_table([["[red]name", "[1] :smile:"], ["x", "\x1b[2J"]]) == [
        "[red]name  [1] :smile:",
        f"x{17 * ' '}\ufffd[2J",
    ]
