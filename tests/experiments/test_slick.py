"""The experiment that sets our estimate of what a base knows beside the study's, in its smallest form."""

from experiments.real import slick
from ilp_mlflow.diagnosis.beliefs.few_shot import reveals_answer


def test_every_row_has_a_class_in_both(tiny_model, capsys):
    classes = slick.measure(str(tiny_model), 3, 0, slick.Study(sets=2, samples=2))
    assert len(classes["full"]) == 3
    assert set(classes["cheap"]) <= set(classes["full"])
    assert set(classes["full"].values()) <= set(slick.CLASSES)
    assert "of 3; at most one class apart" in capsys.readouterr().out


def test_prompts_show_four_solved_rows_and_never_the_answer():
    solved, asked = slick.rows_of(40, 1)
    assert not {row.id for row in solved} & {row.id for row in asked}
    prompts = slick.study_prompts(solved, asked, 3, 1)
    for row in asked:
        kind, _, _ = row.id.partition("/")
        fair = [s for s in solved if s.id.startswith(f"{kind}/") and not reveals_answer(s, row)]
        for prompt in prompts[row.id]:
            shown = prompt.removesuffix(row.prompt).strip().split("\n\n")
            assert len(shown) == slick.EXAMPLES
            assert set(shown) <= {f"{s.prompt}{s.completion}" for s in fair}


def test_the_table_counts_every_row_once():
    full = {"a": "HighlyKnown", "b": "MaybeKnown", "c": "Unknown", "d": "Unknown"}
    cheap = {"a": "HighlyKnown", "b": "HighlyKnown", "c": "HighlyKnown"}
    text = slick.table(full, cheap)
    assert "| MaybeKnown | 1 | 0 | 0 | 0 | 0 |" in text
    assert "| Unknown | 1 | 0 | 0 | 0 | 1 |" in text
    assert "the same class: 1 of 4; at most one class apart: 2" in text
