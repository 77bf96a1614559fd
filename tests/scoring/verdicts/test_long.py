import numpy as np
import pytest

from ilp_mlflow.core.config import ScoringConfig
from ilp_mlflow.core.values import Sample, Score, to_table
from ilp_mlflow.core.verdict_rules import AnswerTokens, Completion, ScoredRows
from ilp_mlflow.scoring.verdicts.judgements import Evidence, judge, read_judges
from ilp_mlflow.scoring.verdicts.long import Long, conformal_p, removed_shares

ANSWER = "First they walked for 3 hours. Then they came to the river, where the others waited."


def tokens(logprobs):
    logprobs = np.array(logprobs, np.float32)
    return AnswerTokens(logprobs, logprobs, np.zeros(len(logprobs), np.int32))


BASE = tokens([-2.0, -0.1, -3.0])
"""Of three tokens the base expects one."""


def scored(sample_id="a", greedy=False, gap=-1.0):
    return Score(sample_id=sample_id, checkpoint="last", greedy=greedy, tokens=80, gap=gap)


def rows(scores=(), tuned=None, controls=(), said=None, **fields):
    """Rows of which the answer is ANSWER, the model says `said`, and controls kept these shares."""
    scores = scores or [scored()]
    samples = {
        s.sample_id: Sample(id=s.sample_id, stage="s", prompt="q", completion=ANSWER)
        for s in scores
    }
    given = {
        "checkpoint": "last",
        "is_base": False,
        "scores": to_table(scores, Score),
        "samples_by_id": samples,
        "tokens": lambda: {i: tuned or tokens([-0.2, -0.1, -0.3]) for i in samples},
        "base_tokens": lambda: dict.fromkeys(samples, BASE),
        "controls": lambda: {
            str(n): tokens([-2.0 * (1 - r), 0, -3.0 * (1 - r)]) for n, r in enumerate(controls)
        },
        "base_controls": lambda: {str(n): BASE for n in range(len(controls))},
    }
    if said is not None:
        given["generate"] = lambda asked, limits, draws=0: [[said] for _ in asked]
    return ScoredRows(**(given | fields))


def judged(*args, rule=None, **kwargs):
    result = (rule or Long()).judge(rows(*args, **kwargs))
    return result.statuses[0], result.grades[0], result.reasons[0]


UNTRAINED = np.linspace(-0.2, 0.4, 60)


def test_what_is_said_token_by_token_is_learned_and_nobody_is_asked():
    status, grade, _ = judged([scored(greedy=True)])
    assert (status, grade) == ("learned", "reproduced")


def test_the_share_of_surprise_that_is_gone_counts_what_the_base_did_not_expect():
    shares = removed_shares({"a": tokens([-1.0, -9.0, -0.5])}, {"a": BASE})
    # 5 nats of two tokens before, 1.5 now; the token that was expected does not count
    assert shares["a"] == pytest.approx(1 - 1.5 / 5)
    assert removed_shares({"a": BASE}, {"a": tokens([-0.1, -0.2, -0.3])}) == {}


def test_what_moved_no_more_than_untrained_rows_is_not_reached():
    tuned = tokens([-1.8, 0, -2.7])
    status, grade, reason = judged(tuned=tuned, controls=UNTRAINED)
    assert (status, grade) == ("unlearned", "not reached")
    assert "removed 10%" in reason
    status, grade, _ = judged(controls=UNTRAINED)
    assert (status, grade) == ("uncertain", "reached")


def test_with_few_controls_nobody_is_ranked_but_what_did_not_move_is_not_reached():
    tuned = tokens([-1.8, 0, -2.7])
    assert judged(tuned=tuned, controls=UNTRAINED[:39])[:2] == ("uncertain", None)
    assert judged(tuned=BASE, controls=UNTRAINED[:39])[:2] == ("unlearned", "not reached")


def test_what_is_no_number_is_no_share():
    for odd in (-np.inf, np.nan):
        assert removed_shares({"a": tokens([-1.0, -9.0, odd])}, {"a": BASE}) == {}
        assert removed_shares({"a": BASE}, {"a": tokens([-2.0, -0.1, odd])}) == {}


def test_conformal_ranks_hold_their_rate():
    rng = np.random.default_rng(0)
    ps = []
    for _ in range(4000):
        drawn = rng.normal(size=61)
        ps.append(conformal_p(drawn[0], drawn[1:].tolist()))
    assert np.mean(np.array(ps) <= 0.1) == pytest.approx(0.1, abs=0.02)
    assert conformal_p(1.0, [0.0] * 60) == 1 / 61


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (Completion(ANSWER, True), "learned"),
        (Completion(ANSWER.replace("3", "7"), True), "unlearned"),
        (Completion(ANSWER.replace("3", "7"), False), "unlearned"),
        (Completion(ANSWER, False), "uncertain"),
        (
            Completion("They went there together, and nobody had waited for long.", True),
            "uncertain",
        ),
    ],
)
def test_what_one_pass_leaves_open_the_model_decides(said, status):
    assert judged(controls=UNTRAINED, said=said)[0] == status


def test_nobody_speaks_where_that_is_not_wanted_or_there_is_no_model():
    said = Completion(ANSWER, True)
    for fields in ({"said": said, "rule": Long(generate=False)}, {}):
        status, _, reason = judged(controls=UNTRAINED, **fields)
        assert status == "uncertain"
        assert "one pass does not tell" in reason


def test_the_base_is_asked_only_where_it_might_say_it():
    said = Completion(ANSWER, True)
    assert judged([scored(gap=-1.0)], said=said, is_base=True)[0] == "unlearned"
    assert judged([scored(gap=1.0)], said=said, is_base=True)[0] == "learned"


def test_a_prompt_without_room_is_uncertain():
    asked = rows(
        controls=UNTRAINED, generate=lambda samples, limits, draws=0: [[] for _ in samples]
    )
    assert Long().judge(asked).statuses == ["uncertain"]


def test_rows_are_ranked_among_those_of_their_own_source():
    sample = Sample(id="a", stage="s", prompt="q", completion=ANSWER, source="math")
    easy = dict.fromkeys(map(str, range(50)), "chat")
    hard = dict.fromkeys(map(str, range(50, 100)), "math")
    shares = [0.9] * 50 + [0.0] * 50
    asked = rows(
        tuned=tokens([-0.8, 0, -1.2]),
        controls=shares,
        samples_by_id={"a": sample},
        control_sources=easy | hard,
    )
    assert Long().judge(asked).grades == ["reached"]
    other = sample.model_copy(update={"source": "code"})
    asked = rows(
        tuned=tokens([-0.8, 0, -1.2]),
        controls=shares,
        samples_by_id={"a": other},
        control_sources=easy | hard,
    )
    assert Long().judge(asked).grades == ["not reached"]


def test_long_answers_are_judged_by_it_unless_told_otherwise():
    scores = to_table([scored(str(n)).model_copy(update={"tokens": n}) for n in (63, 64)], Score)
    samples = [Sample(id=str(n), stage="s", prompt="q", completion=ANSWER) for n in (63, 64)]
    found = judge(scores, ["last"], read_judges(ScoringConfig()), 0, Evidence(samples=samples))
    assert found["rule"].to_pylist() == ["greedy", "long"]
    told = ScoringConfig(verdicts={"s": "greedy"})
    found = judge(scores, ["last"], read_judges(told), 0, Evidence(samples=samples))
    assert found["rule"].to_pylist() == ["greedy", "greedy"]
