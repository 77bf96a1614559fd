import tempfile

import datasets
import mlflow
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ilp_mlflow.core.config import DataConfig
from ilp_mlflow.core.errors import DatasetError
from ilp_mlflow.data import readers
from tests.conftest import rows, write_jsonl


def read(path):
    """The rows at a place."""
    return [record for _, _, record in readers.read_records(DataConfig(path=str(path)))]


def test_every_file_format_gives_the_same_rows(tmp_path):
    given = rows()
    write_jsonl(tmp_path / "a.jsonl", given)
    pq.write_table(pa.Table.from_pylist(given), tmp_path / "a.parquet")
    datasets.Dataset.from_list(given).save_to_disk(tmp_path / "saved")
    lines = ["id,prompt,completion", *(f"{r['id']},{r['prompt']},{r['completion']}" for r in given)]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    for place in ("a.jsonl", "a.parquet", "saved", "a.csv"):
        assert read(tmp_path / place) == given


def test_a_byte_order_mark_and_a_whole_surrogate_pair_are_no_trouble(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfprompt,completion\np,c\n")
    (tmp_path / "a.jsonl").write_bytes(
        b'\xef\xbb\xbf{"prompt": "p", "completion": "\\ud83d\\ude00"}\n'
    )
    assert read(tmp_path / "a.csv")[0]["prompt"] == "p"
    assert read(tmp_path / "a.jsonl")[0]["completion"] == "\U0001f600"


def test_a_missing_or_unknown_or_broken_file_is_named(tmp_path):
    for name, content, expected in (
        ("none.jsonl", None, "no such file"),
        ("a.txt", "x", "unknown kind of file '.txt'"),
        ("a.parquet", "x", "not a Parquet file"),
        ("a.csv", "prompt,completion\np\n", "row 1: has not as many fields"),
    ):
        if content is not None:
            (tmp_path / name).write_text(content)
        with pytest.raises(DatasetError, match=expected):
            read(tmp_path / name)
    (tmp_path / "folder").mkdir()
    with pytest.raises(DatasetError, match=r"not one written by datasets.save_to_disk"):
        read(tmp_path / "folder")


@pytest.fixture
def logged(store, tmp_path, monkeypatch):
    """Id of a run that has rows as a file and as a folder, and was told that the file is its data; nothing may be left behind."""
    path = write_jsonl(tmp_path / "a.jsonl", rows())
    datasets.Dataset.from_list(rows()).save_to_disk(tmp_path / "saved")
    with mlflow.start_run() as run:
        mlflow.log_artifact(path)
        mlflow.log_artifact(tmp_path / "saved")
        mlflow.log_input(mlflow.data.from_pandas(pd.DataFrame(rows()), source=str(path)))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    yield run.info.run_id
    assert not list(scratch.iterdir())


@pytest.mark.filterwarnings(
    "ignore::UserWarning:mlflow"
)  # of two kinds of local source, both its own
@pytest.mark.parametrize("place", ["/a.jsonl", "/saved", ""])
def test_rows_are_read_from_where_mlflow_has_them(logged, tmp_path, place):
    assert read(f"runs:/{logged}{place}") == read(tmp_path / "a.jsonl")


@pytest.mark.filterwarnings("ignore::UserWarning:mlflow")
def test_what_mlflow_cannot_fetch_is_named_in_one_line(logged):
    with mlflow.start_run() as bare:
        pass
    with mlflow.start_run() as untold:
        mlflow.log_input(mlflow.data.from_pandas(pd.DataFrame(rows(n=2))))
    for place, expected in (
        (f"runs:/{logged}/none.jsonl", "cannot be fetched .* MLflow's store is sqlite"),
        ("runs:/none", "cannot be fetched .* not found"),
        (f"runs:/{bare.info.run_id}", "one data set logged as input is needed, it has none"),
        (f"runs:/{untold.info.run_id}", "logged without a source"),
        ("nowhere://a/b.jsonl", "cannot be fetched"),
    ):
        with pytest.raises(DatasetError, match=expected) as error:
            read(place)
        assert place in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore::UserWarning:mlflow")
def test_data_sets_of_mlflow_are_opened(tmp_path):
    given = [{**rows(n=1)[0], "options": [" Rome"]}, {**rows(n=2)[1], "options": None}]
    table = datasets.Dataset.from_list(given)
    assert readers.as_records(mlflow.data.from_pandas(pd.DataFrame(given))) == given
    assert list(readers.as_records(mlflow.data.from_huggingface(table))) == given
    assert readers.as_records(table) is table
