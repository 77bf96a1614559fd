import re

from ilp_mlflow.lab.rows import GROUPS
from ilp_mlflow.lab.tables import benchmark, composed, mitigations, truth


def found(**more):
    groups = {
        g: {"n": 40, "learned": 0.125, "learned_when_removed": 1.0, "paraphrased": 0.2}
        for g in GROUPS
    }
    said = {g: {"unexplained": 20, "missing_knowledge": 15} for g in GROUPS}
    attribution = {
        "macro_f1": 0.25,
        "per_cause": {},
        "confusion": said,
        "beside": {
            "data_contradiction": 3,
            "not_trained": 2,
            "missing_knowledge": 1,
            "knowledge_conflict": 1,
        },
    }
    return {
        "seed": 7,
        "samples": 290,
        "groups": groups,
        "attribution": dict.fromkeys(("default", "without_probes", "paper"), attribution),
        **more,
    }


def test_the_truth_stands_beside_what_was_said():
    text = truth(found())
    assert all(group in text for group in GROUPS)
    assert re.search(r"unexplained 20\n +missing_knowledge 15\n", text)
    assert re.search(
        r"\(other rows\) +10 +data_contradiction 3\n +not_trained 2\n +others 2$", text
    )
    assert max(map(len, text.splitlines())) <= 110


def test_a_seed_of_the_benchmark():
    detection = {"default": {"precision": 0.5, "recall": None}}
    measured = {
        "detection": detection,
        "surface": {"macro_f1": 0.2, "chance": 1 / 7},
        "others": {"cells": 36, "moved": 1},
    }
    text = benchmark(found(**measured, seconds={"base": 12.3, "experiment": 40}))
    assert text.startswith("seed 7\n")
    assert "moved in 1 of 36 cells" in text
    assert "against paraphrases: default 0.50 and - " in " ".join(text.split())
    assert "seconds: base 12, experiment 40" in text


def test_what_mitigations_did_fits_a_terminal():
    shares = {"missing_knowledge": 0.894, "not_trained": -0.04}
    one = {
        "name": "knowledge_augmentation",
        "net_recovery": shares,
        "held": {},
        "rule": 0.1,
        "control_regressed": 0.0,
    }
    none = {"name": "x", "net_recovery": {}, "held": {}, "rule": None, "control_regressed": 0.03}
    text = mitigations({"mitigations": [one, none]})
    assert max(map(len, text.splitlines())) <= 80
    assert re.search(r"knowledge_augmentation +\.89 .* -\.04 +\.10\n", text)
    assert text.endswith("control group regressed: x 3%")


def test_what_composing_did_is_set_beside_the_oracle():
    one = {"unlearned": 0.01, "combines": ("a", "b"), "control_regressed": 0.0}
    text = composed(
        {"unlearned": 0.03, "auto": one, "oracle": one | {"unlearned": 0.005}, "reached": 0.8}
    )
    assert "3.00% of the samples unlearned before" in text
    assert re.search(r"auto +1\.00% after a, b", text)
    assert "80% of what the oracle reaches" in text
