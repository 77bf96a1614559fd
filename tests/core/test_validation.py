import pytest
from pydantic import ValidationError, field_validator

from ilp_mlflow.core.validation import describe_error, models_in
from ilp_mlflow.core.value import Value


class File(Value):
    """A source of data."""

    path: str


class Hub(Value):
    """Another source of data."""

    dataset: str
    split: str = "train"


class Settings(Value):
    """Settings with a value of one model, of several, and of none."""

    file: File
    source: File | Hub | None = None
    files: tuple[File, ...] = ()
    share: float = 0.5

    @field_validator("share")
    @classmethod
    def _is_share(cls, value):
        if value > 1:
            raise ValueError("Must be a share")
        return value


def problem(given, overrides=None):
    with pytest.raises(ValidationError) as error:
        Settings.model_validate(given)
    return describe_error(error.value, Settings, "my.yaml", overrides)


FILE = {"path": "x"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "my.yaml: file: missing; add it"),
        ({"fiel": FILE}, "my.yaml: fiel: unknown key; did you mean 'file'?"),
        ({"file": {"pth": "x"}}, "my.yaml: file.pth: unknown key; did you mean 'path'?"),
        ({"file": 1}, "my.yaml: file: expected a mapping with some of: path"),
        ({"file": FILE, "source": {"splt": 1}}, "my.yaml: source.File.splt: unknown key; known are: path"),
        ({"file": FILE, "files": [{"pat": "x"}]}, "my.yaml: files.0.pat: unknown key; did you mean 'path'?"),
        ({"file": FILE, "share": 2}, "my.yaml: share: must be a share (got 2)"),
        ({"file": FILE, "files": {"a": 1}}, "my.yaml: files: input should be a valid tuple"),
        ([], "my.yaml: expected a mapping with some of: file, source, files, share"),
    ],
)  # fmt: skip
def test_the_first_problem_is_told_with_its_place(given, expected):
    assert problem(given) == expected


def test_what_came_from_the_command_line_is_a_parameter():
    given = {"file": FILE, "share": "much"}
    assert problem(given, {"share": "much"}).startswith("parameter share: input should be a valid")
    assert problem(given).startswith("my.yaml: share: ")


def test_models_are_found_inside_unions_and_lists():
    assert models_in(tuple[File, ...] | dict[str, Hub] | None) == [File, Hub]
    assert models_in(dict[str, float]) == []
