"""Folders of shards and clones of hub repositories."""

import json
import logging

import pytest

from sealtune.core.config import DatasetConfig
from sealtune.core.errors import UserError
from sealtune.data.sources import read_rows


@pytest.fixture
def make(tmp_path):
    """A function that writes files with one row each, which holds the file's name, and a README."""

    def write(*names, configs=None):
        for name in names:
            path = tmp_path / "set" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"from_file": name}))
        if configs is not None:
            text = configs if isinstance(configs, str) else json.dumps({"configs": configs})
            (tmp_path / "set" / "README.md").write_text(f"---\n{text}\n---\n# Rows\n")
        return tmp_path / "set"

    return write


def read(path, **options):
    return [row["from_file"] for _, row in read_rows(DatasetConfig(path=str(path), **options))]


def error_message(path, **options):
    with pytest.raises(UserError) as caught:
        read(path, **options)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


def test_shards_are_read_in_the_order_of_their_numbers(make):
    names = ["b/part-1.jsonl", "part-2.jsonl", "part-10.jsonl"]
    others = ["LICENSE", "dataset_info.json", ".hidden.jsonl", ".git/x.jsonl", "load.py", "README.txt", "_SUCCESS"]
    assert read(make(*reversed(names), *others)) == names


def test_other_files_are_named_in_the_log(make, caplog):
    caplog.set_level(logging.INFO, "sealtune")
    read(make("train.jsonl", "test.jsonl", "notes.txt", "LICENSE"))
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.endswith("files of the split train: 1; not read: notes.txt, test.jsonl")


def test_several_types_are_one_line_that_names_them(make):
    folder = make("a.jsonl", "b.csv", "c.ndjson", "d.xlsx")
    assert (
        f"files of several types (1 .csv, 2 .jsonl, 1 .xlsx); name those to read, as in {folder}/*.csv"
        in error_message(folder)
    )


@pytest.mark.parametrize(
    ("names", "split", "expected"),
    [
        ([f"data/{s}-00000-of-00001.jsonl" for s in ("test", "train")], "train", 1),
        ([f"data/{s}-00000-of-00001.jsonl" for s in ("test_sft", "train_sft", "train_gen")], "train_sft", 1),
        (["test.jsonl", "train.jsonl", "validation.jsonl"], "train", 1),
        (["my-training_set.jsonl", "my-dev_set.jsonl"], "validation", 1),
        (["test/0.jsonl", "train/0.jsonl"], "train", 1),
        (["a.jsonl", "the_train_data.jsonl"], "train", 1),
        (["latest/contrast.jsonl"], "train", 0),
    ],
)
def test_splits_are_found_by_name(make, names, split, expected):
    assert read(make(*names), split=split) == [names[expected]]


def test_a_missing_split_and_an_empty_folder_are_one_line(make, tmp_path):
    assert "no split 'train'; it has test" in error_message(make("test.jsonl"))
    assert "no split 'test'; it has train" in error_message(
        make("a/x.jsonl", "train.jsonl").joinpath("a"), split="test"
    )
    (tmp_path / "empty").mkdir()
    assert "it has no data files" in error_message(tmp_path / "empty")
    (tmp_path / "empty" / "notes.txt").write_text("hello")
    assert "no data files" in error_message(tmp_path / "empty")


SHARDS = ["data/train-0.jsonl", "data/train-1.jsonl", "data/test-0.jsonl", "extra/more.jsonl"]


@pytest.mark.parametrize(
    ("data_files", "expected"),
    [
        ("data/train-*.jsonl", SHARDS[:2]),
        (["data/train-1.jsonl", "extra/*.jsonl"], [SHARDS[1], SHARDS[3]]),
        ([{"split": "train", "path": "data/train-*"}, {"split": "test", "path": "data/test-*"}], SHARDS[:2]),
        ([{"split": "train", "path": ["data/train-1.jsonl", "extra/more.jsonl"]}], [SHARDS[1], SHARDS[3]]),
        ({"train": "extra/*.jsonl", "test": "data/test-*"}, SHARDS[3:]),
        ("**/*.jsonl", [SHARDS[2], *SHARDS[:2], SHARDS[3]]),
        ("extra", SHARDS[3:]),
        ("./extra/**", SHARDS[3:]),
    ],
)
def test_the_readme_names_the_files(make, data_files, expected):
    assert read(make(*SHARDS, configs=[{"config_name": "default", "data_files": data_files}])) == expected


def test_a_configuration_is_chosen_by_name(make):
    configs = [{"config_name": name, "data_files": f"{name}.jsonl"} for name in ("a", "b")]
    folder = make("a.jsonl", "b.jsonl", configs=configs)
    assert read(folder, name="b") == ["b.jsonl"]
    assert "has several configurations (a, b); choose one with `name`" in error_message(folder)
    assert "no configuration 'c'; it has a, b" in error_message(folder, name="c")
    make(configs=[configs[0], configs[1] | {"default": True}])
    assert read(folder) == ["b.jsonl"]
    make(configs=configs[:1])
    assert read(folder, name="its name in tables") == ["a.jsonl"]


def test_a_data_folder_and_a_readme_without_files(make):
    folder = make("a/x.jsonl", "b/y.jsonl", configs=[{"config_name": "a", "data_dir": "a"}])
    assert read(folder) == ["a/x.jsonl"]
    make(configs="license: mit")
    assert read(folder) == ["a/x.jsonl", "b/y.jsonl"]


@pytest.mark.parametrize(
    "pattern", ["../secret.jsonl", "/etc/*", "hf://datasets/x/y.jsonl", "https://x.org/y.jsonl", "a/../../x"]
)
def test_a_readme_cannot_name_files_elsewhere(make, tmp_path, pattern):
    (tmp_path / "secret.jsonl").write_text("{}")
    for config in (
        {"data_files": pattern},
        {"data_files": [{"split": "train", "path": [pattern]}]},
        {"data_dir": pattern},
    ):
        folder = make("a.jsonl", configs=[{"config_name": "default", **config}])
        assert "which is no file of this folder" in error_message(folder)


@pytest.mark.parametrize(
    ("configs", "message"),
    [
        ([{"data_files": "none-*.jsonl"}], "README.md names none-*.jsonl, but no such file is there"),
        ([{"data_files": 3}], "`data_files` is neither a path nor"),
        ([{"data_files": [{"split": "train"}]}], "`data_files` is neither a path nor"),
        ([{"data_files": "a.jsonl", "field": "rows"}], "sets 'field', which sealtune cannot do"),
        ("configs: [", "README.md, line 2: not valid YAML"),
        ("configs: !!python/object/apply:os.system [ls]", "not valid YAML"),
        ("configs: 3", "`configs` is not a list"),
    ],
)
def test_a_readme_that_cannot_be_followed_is_one_line(make, configs, message):
    assert message in error_message(make("a.jsonl", configs=configs))


def test_links_may_not_leave_the_folder(make, tmp_path):
    (tmp_path / "secret.jsonl").write_text('{"from_file": "secret"}')
    folder = make("a.jsonl")
    (folder / "b.jsonl").symlink_to(folder / "a.jsonl")
    assert len(read(folder)) == 2
    (folder / "c.jsonl").symlink_to(tmp_path / "secret.jsonl")
    assert "c.jsonl: a link that leads out of the folder" in error_message(folder)
    (folder / "c.jsonl").unlink()
    (folder / "deep").symlink_to(tmp_path)
    assert "deep: a link that leads out of the folder" in error_message(folder)


def test_a_snapshot_in_the_cache_of_the_hub_is_read(make, tmp_path):
    repository = tmp_path / "datasets--owner--rows"
    (repository / "blobs").mkdir(parents=True)
    (repository / "blobs" / "0a1b").write_text('{"from_file": "blob"}')
    (repository / "snapshots" / "rev").mkdir(parents=True)
    (repository / "snapshots" / "rev" / "rows.jsonl").symlink_to("../../blobs/0a1b")
    assert read(repository / "snapshots" / "rev") == ["blob"]
