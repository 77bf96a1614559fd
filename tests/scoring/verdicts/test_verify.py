import sys

import pytest

from ilp_mlflow.core.errors import PluginError
from ilp_mlflow.core.values import Sample, Score, to_table
from ilp_mlflow.core.verdict_rules import Completion, ScoredRows
from ilp_mlflow.scoring.verdicts.verify import Verify


class Speaker:
    """Says what it is told: greedily the first text, and the others when it is sampled."""

    def __init__(self, *texts, ended=True):
        self.texts, self.ended, self.limits = texts, ended, []

    def __call__(self, samples, max_new_tokens, draws=0):
        self.limits += max_new_tokens
        said = self.texts[1 : draws + 1] if draws else self.texts[:1]
        return [[Completion(text, self.ended) for text in said] for _ in samples]


def judged(rule, speaker, completion="42", tokens=5, **fields):
    sample = Sample(id="a", stage="s", prompt="q", completion=completion, **fields)
    scores = to_table([Score(sample_id="a", checkpoint="last", tokens=tokens, gap=-1.0)], Score)
    rows = ScoredRows("last", False, scores, samples_by_id={"a": sample}, generate=speaker)
    result = rule.judge(rows)
    return result.statuses[0], result.margins[0], result.reasons[0]


def test_the_greedy_answer_decides():
    rule = Verify(check="exact")
    assert judged(rule, Speaker("42")) == ("learned", 0.5, "its greedy answer passes 'exact'")
    assert judged(rule, Speaker("43")) == ("unlearned", -0.5, "its greedy answer fails 'exact'")


def test_what_is_cut_off_fails():
    status, _, reason = judged(Verify(check="contains"), Speaker("42 and", ended=False))
    assert (status, reason) == ("unlearned", "its greedy answer is cut off")


@pytest.mark.parametrize(("right", "status"), [(0, "unlearned"), (4, "uncertain"), (8, "learned")])
def test_samples_decide_where_greedy_fails_if_they_are_enough(right, status):
    texts = ["42"] * right + ["0"] * (8 - right)
    found, margin, reason = judged(Verify(check="exact", samples=8), Speaker("43", *texts))
    assert found == status
    assert margin == pytest.approx(right / 8 - 0.5)
    assert f"{right} of 8 samples pass (pass@8 {min(right, 1)})" in reason


def test_a_greedy_answer_that_passes_is_not_sampled():
    speaker = Speaker("42")
    assert judged(Verify(check="exact", samples=4), speaker)[0] == "learned"
    assert len(speaker.limits) == 1


def test_completions_may_be_twice_as_long_as_the_answer():
    speaker = Speaker("42")
    judged(Verify(check="exact"), speaker, tokens=30)
    judged(Verify(check="exact"), speaker, tokens=3)
    judged(Verify(check="exact", max_new_tokens=7), speaker, tokens=30)
    assert speaker.limits == [60, 16, 7]


def test_what_the_check_cannot_judge_is_unscored():
    status, margin, reason = judged(Verify(check="json"), Speaker("{}"), completion="no JSON")
    assert (status, margin) == ("unscored", None)
    assert reason == "the check 'json' gives no value for it"


def test_without_a_model_nothing_is_scored():
    assert judged(Verify(check="exact"), None)[0] == "unscored"


MODULE = """
from mlflow.genai.scorers import scorer

SEEN = []

def short(completions, prompts, answer, topic, **columns):
    SEEN.append((completions, prompts, answer, topic))
    return [0.4 if len(said) < 3 else None for said in completions]

def lists(completions, solution):
    return [float(c[0]["content"] == s) for c, s in zip(completions, solution)]

def breaks(completions, **columns):
    raise ValueError("no such table")

def no_number(completions, **columns):
    return [float("nan")]

def words(completions, **columns):
    return ["yes"]

def too_few(completions, **columns):
    return []

@scorer
def same(outputs, expectations):
    return outputs == expectations["expected_response"] and expectations["topic"] == "sums"

number = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "own_checks.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    # the folder is put on the path by the package, as one that users stand in is not
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    sys.modules.pop("own_checks", None)


def test_a_check_of_ones_own_is_called_as_trl_calls_a_reward_function(module):
    rule = Verify(check="own_checks:short", threshold=0.4)
    assert judged(rule, Speaker("43"), metadata={"topic": "sums"})[0] == "learned"
    assert judged(rule, Speaker("430"), metadata={"topic": "sums"})[0] == "unscored"
    import own_checks

    assert own_checks.SEEN[0] == (["43"], ["q"], ["42"], ["sums"])
    rule = Verify(check="own_checks.short", threshold=0.5)
    assert judged(rule, Speaker("43"), metadata={"topic": "sums"})[0] == "unlearned"


def test_conversations_reach_it_as_messages(module):
    turns = [{"role": "user", "content": "q"}], [{"role": "assistant", "content": "42"}]
    sample = Sample(id="a", stage="s", prompt=turns[0], completion=turns[1])
    scores = to_table([Score(sample_id="a", checkpoint="last", tokens=5)], Score)
    rows = ScoredRows("last", False, scores, samples_by_id={"a": sample}, generate=Speaker("42"))
    assert Verify(check="own_checks:lists").judge(rows).statuses == ["learned"]


def test_scorers_of_mlflow_are_checks(module):
    rule = Verify(check="own_checks:same")
    assert judged(rule, Speaker("42"), metadata={"topic": "sums"})[0] == "learned"
    assert judged(rule, Speaker("42"), metadata={"topic": "else"})[0] == "unlearned"


@pytest.mark.parametrize(
    ("check", "why"),
    [
        ("exakt", "'exakt' is not built in; did you mean 'exact'?"),
        ("own_checks:nothing", "'own_checks:nothing' cannot be imported"),
        ("no_such_module:f", "ModuleNotFoundError"),
        ("own_checks:number", "is no function, but int"),
        ("own_checks:words", "'own_checks:words' failed: ValueError"),
        ("own_checks:breaks", "'own_checks:breaks' failed: ValueError: no such table"),
        ("own_checks:too_few", "was given 1 completions and returned 0 values"),
        ("own_checks:short", "needs the column 'topic', which no row has (such as sample 'a')"),
        ("python_tests", "needs the column 'tests'"),
    ],
)
def test_what_is_wrong_with_a_check_is_said(module, check, why):
    with pytest.raises(PluginError) as refused:
        judged(Verify(check=check), Speaker("42"))
    assert why in str(refused.value)


def test_nan_is_no_value(module):
    assert judged(Verify(check="own_checks:no_number"), Speaker("42"))[0] == "unscored"


def test_columns_that_have_names_of_options_or_completions_are_no_options(module):
    columns = {"schema": "x", "timeout": "y", "completions": "z", "topic": "sums", "tests": "1"}
    for check, said in (("json", "42"), ("python_tests", "1"), ("own_checks:short", "4")):
        rule = Verify(check=check, threshold=0.4)
        assert judged(rule, Speaker(said), metadata=columns)[0] == "learned", check


def test_arguments_reach_the_check_and_unknown_ones_are_refused(module):
    schema = {"type": "string"}
    rule = Verify(check="json", arguments={"schema": schema})
    assert judged(rule, Speaker("42"))[0] == "unlearned"
    assert judged(rule, Speaker('"42"'))[0] == "learned"
    for check, arguments in (
        ("json", {"shcema": schema}),
        ("exact", {"x": 1}),
        ("own_checks:same", {"x": 1}),
    ):
        with pytest.raises(PluginError, match=r"verify\.arguments"):
            judged(Verify(check=check, arguments=arguments), Speaker("42"))


def test_a_prompt_without_room_is_unscored_and_says_so():
    for check in ("exact", "python_tests"):
        sample = Sample(id="a", stage="s", prompt="q", completion="42")
        scores = to_table([Score(sample_id="a", checkpoint="last", tokens=5)], Score)
        silent = lambda samples, limits, draws=0: [[] for _ in samples]  # noqa: E731
        rows = ScoredRows("last", False, scores, samples_by_id={"a": sample}, generate=silent)
        result = Verify(check=check, samples=2).judge(rows)
        assert result.statuses == ["unscored"]
        assert result.reasons == ["the prompt leaves the model no room to answer"]


@pytest.mark.parametrize(("check", "module"), [("math", "math_verify"), ("rouge_l", "rouge_score")])
def test_a_check_without_its_package_is_refused_before_anything_is_trained(
    monkeypatch, check, module
):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(PluginError, match=rf"needs {module}: pip install 'ilp-mlflow\[verify\]'"):
        Verify(check=check)
