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


def test_what_is_not_there_is_named(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "empty" / "deep").mkdir(parents=True)
    write_jsonl(tmp_path / "a.jsonl", rows())
    for name, expected in (
        ("none.jsonl", "no such file"),
        ("a.txt", "unknown kind of file '.txt'"),
        ("empty", r"not one written by datasets.save_to_disk; use \.jsonl"),
        ("*.csv", r"\*\.csv: no file matches"),
        ("nowhere/*.jsonl", "no file matches"),
        ("a.*", "a.txt: unknown kind of file '.txt', matched by"),
    ):
        with pytest.raises(DatasetError, match=expected) as error:
            read(tmp_path / name)
        assert "\n" not in str(error.value)


def test_shards_are_read_in_the_order_of_their_names_and_numbered_through(tmp_path):
    given = rows()
    folder = tmp_path / "shards"
    folder.mkdir()
    write_jsonl(folder / "b.jsonl", given[3:])
    write_jsonl(folder / "a.jsonl", given[:3])
    (folder / "notes.md").write_text("no rows")
    (folder / ".hidden.jsonl").write_text("no rows")
    for place in ("shards", "shards/*.jsonl", "*/[ab].jsonl", "**/?.jsonl"):
        data = DataConfig(path=str(tmp_path / place))
        found = list(readers.read_records(data))
        assert [record.fields for record in found] == given
        assert [record.number for record in found] == list(range(1, 9))
        assert found[3].where == f"{folder / 'b.jsonl'} line 1"


def test_a_folder_with_brackets_in_its_name_is_no_pattern(tmp_path):
    folder = tmp_path / "run[1]"
    folder.mkdir()
    write_jsonl(folder / "a.jsonl", rows())
    assert read(folder / "a.jsonl") == read(folder / "*.jsonl") == rows()


def test_a_folder_of_several_data_sets_is_not_read_as_one(tmp_path):
    for name, files, expected in (
        ("kinds", ("a.jsonl", "a.csv"), r"several kinds \(.csv, .jsonl\)"),
        (
            "splits",
            ("train.jsonl", "test.jsonl"),
            r"several splits \(test, train\); .*splits/train\*",
        ),
        ("shards", ("train-0.jsonl", "validation-0.jsonl"), "several splits"),
        ("listed", ("a.jsonl", "dataset_info.json"), "listed/dataset_info.json#NAME"),
        ("parent", ("data/a.jsonl",), r"there are some in .*parent/data"),
    ):
        for file in files:
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_text("{}")
        with pytest.raises(DatasetError, match=expected):
            read(tmp_path / name)


def test_of_a_saved_data_set_one_split_is_read(tmp_path):
    splits = {
        "train": datasets.Dataset.from_list(rows()),
        "test": datasets.Dataset.from_list(rows(n=2)),
    }
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    assert read(tmp_path / "saved") == rows()
    test = DataConfig(path=str(tmp_path / "saved"), split="test")
    records = list(readers.read_records(test))
    assert len(records) == 2
    assert records[0].where == f"{tmp_path / 'saved'}[test] row 1"
    with pytest.raises(DatasetError, match="no split 'dev' in it; known are: test, train"):
        list(readers.read_records(test.model_copy(update={"split": "dev"})))


def test_a_split_of_what_has_none_is_refused(tmp_path):
    (tmp_path / "rows").mkdir()
    write_jsonl(tmp_path / "rows" / "a.jsonl", rows())
    datasets.Dataset.from_list(rows()).save_to_disk(tmp_path / "saved")
    for place in ("rows/a.jsonl", "rows", "rows/*.jsonl", "saved"):
        data = DataConfig(path=str(tmp_path / place), split="test")
        with pytest.raises(DatasetError, match="has no splits, so no 'test'"):
            list(readers.read_records(data))
    datasets.DatasetDict(train=datasets.Dataset.from_list(rows())).save_to_disk(tmp_path / "dict")
    data = DataConfig(path=str(tmp_path / "dict"), split="train[:2]")
    with pytest.raises(DatasetError, match=r"no split 'train\[:2\]' in it; .* give a limit"):
        list(readers.read_records(data))


def test_a_saved_data_set_that_git_lfs_has_not_fetched_is_told(tmp_path):
    datasets.Dataset.from_list(rows()).save_to_disk(str(tmp_path / "saved"))
    (file,) = (tmp_path / "saved").glob("*.arrow")
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n")
    with pytest.raises(DatasetError, match=rf"saved/{file.name}: a git-lfs pointer"):
        read(tmp_path / "saved")


def test_a_damaged_saved_data_set_is_named(tmp_path):
    datasets.Dataset.from_list(rows()).save_to_disk(tmp_path / "saved")
    for file in (tmp_path / "saved").glob("*.arrow"):
        file.write_bytes(b"x")
    with pytest.raises(DatasetError, match=r"saved: not a whole folder of datasets.save_to_disk"):
        read(tmp_path / "saved")


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
