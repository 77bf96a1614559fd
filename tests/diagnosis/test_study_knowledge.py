import math

from ilp_mlflow import Score
from ilp_mlflow.diagnosis.paper_preset import study_knowledge
from tests.contexts import context, sample


def test_the_base_knows_or_is_blind():
    samples = [sample(id_, f"prompt {id_}") for id_ in ("knows", "blind", "between")]
    table = {"knows": (0.9, 0.05, 0.05), "blind": (0.02, 0.49, 0.49), "between": (0.3, 0.69, 0.01)}
    scored = [
        Score(
            sample_id=id_,
            checkpoint="base",
            option_logprobs=tuple(math.log(p) for p in options),
            p_correct=options[0],
        )
        for id_, options in table.items()
    ]
    assert study_knowledge(context(samples, scores=scored)) == {
        "knows": (True, False),
        "blind": (False, True),
        "between": (False, False),
    }
