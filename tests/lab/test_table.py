from ilp_mlflow.lab.plant import GROUPS
from ilp_mlflow.lab.table import benchmark, truth


def found(**more):
    groups = {g: {"n": 40, "learned": 0.125, "learned_when_removed": 1.0, "paraphrased": 0.2} for g in GROUPS}
    said = {g: {"unexplained": 20, "missing_knowledge": 15} for g in GROUPS}
    attribution = {"macro_f1": 0.25, "per_cause": {}, "confusion": said}
    return {"seed": 7, "groups": groups, "attribution": dict.fromkeys(("default", "without_probes", "paper"), attribution), **more}


def test_the_truth_stands_beside_what_was_said():
    text = truth(found())
    assert all(group in text for group in GROUPS)
    assert "unexplained 20, missing_knowledge 15" in text
    assert max(map(len, text.splitlines())) <= 110


def test_a_seed_of_the_benchmark():
    detection = {"default": {"precision": 0.5, "recall": None}}
    measured = {"detection": detection, "surface": {"macro_f1": 0.2, "chance": 1 / 7}, "others": {"cells": 36, "moved": 1}}
    text = benchmark(found(**measured, seconds={"base": 12.3, "experiment": 40}))
    assert text.startswith("seed 7\n")
    assert "moved in 1 of 36 cells" in text
    assert "against paraphrases: default 0.50 and -\n" in text
    assert "seconds: base 12, experiment 40" in text
