from pathlib import Path

import pytest

from ilp_mlflow.core.errors import ConfigError
from ilp_mlflow.core.strict_yaml import dump_yaml, load_yaml

PATH = Path("my.yaml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: 2\na: 3", "my.yaml line 3: not valid YAML: key 'a' is given twice"),
        ("a: {b: 1, b: 2}", "my.yaml line 1: not valid YAML: key 'b' is given twice"),
        (
            "t: &t {a: 1}\nx:\n  <<: *t\n  b: 1\n  b: 2",
            "my.yaml line 5: not valid YAML: key 'b' is given twice",
        ),
        (
            "t: &t {a: 1}\nx:\n  <<: *t\n  <<: *t",
            "my.yaml line 4: not valid YAML: key '<<' is given twice",
        ),
        ("a: b: c", "my.yaml line 1: not valid YAML: mapping values are not allowed here"),
        ("a: *b", "my.yaml line 1: not valid YAML: found undefined alias 'b'"),
        ("? [a, b]\n: c", "my.yaml line 1: not valid YAML: found unhashable key"),
        ("a: \x00", "my.yaml: not valid YAML: unacceptable character #x0000"),
        ("a: !!python/name:os.system", "my.yaml line 1: not valid YAML: could not determine"),
    ],
)
def test_what_is_no_yaml_is_told_in_one_line(text, expected):
    with pytest.raises(ConfigError) as error:
        load_yaml(text, PATH)
    assert str(error.value).startswith(expected)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-4", 2e-4),
        ("1e5", 1e5),
        ("3.0e-3", 3e-3),
        ("1E3", 1000.0),
        ("+2e+3", 2000.0),
        ("-1.e2", -100.0),
        ("2e", "2e"),
        ("e5", "e5"),
        ("'2e-4'", "2e-4"),
        ("0.5", 0.5),
        ("no", False),
        ("on", True),
        ("'no'", "no"),
        ("~", None),
    ],
)
def test_a_value_is_read_as_everyone_means_it(text, value):
    (read,) = load_yaml(f"[{text}]", PATH)
    assert (read, type(read)) == (value, type(value))


def test_anchors_and_merge_keys_give_what_they_stand_for():
    text = "a: &a {r: 1, s: 2}\nb: &b {t: 3}\nc: *a\nd: {<<: *a, s: 4}\ne: {<<: [*a, *b], u: 5}"
    read = load_yaml(text, PATH)
    assert read["c"] == {"r": 1, "s": 2}
    assert read["d"] == {"r": 1, "s": 4}
    assert read["e"] == {"r": 1, "s": 2, "t": 3, "u": 5}


def test_what_is_written_reads_back_the_same():
    value = {
        "texts": ["2e-4", "1E3", "no", "010", "1:30", "~", "", "null", "a: b", "ä"],
        "numbers": [2e-4, 1e5, 1e-7, 1.0, 3, float("inf")],
        "rest": [None, True, {"z": 1, "a": []}],
    }
    assert load_yaml(dump_yaml(value), PATH) == value
    assert list(load_yaml(dump_yaml(value), PATH)) == list(value)
    assert (
        dump_yaml({"b": {"learning_rate": 2e-4}, "a": "x"}) == "b:\n  learning_rate: 0.0002\na: x\n"
    )
