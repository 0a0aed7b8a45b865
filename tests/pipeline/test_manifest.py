import json

from sealtune.pipeline.folder import RunFolder
from sealtune.pipeline.manifest import Manifest, StageEntry


def test_unknown_keys_survive_a_rewrite(tmp_path):
    folder = RunFolder(tmp_path)
    rank = {"inputs": {"seed": 1}, "outputs": {}, "seconds": 2, "tokens": 9, "note": ["of a later version"]}
    folder.write_json("manifest.json", {"machine": {"gpus": []}, "extra": {"a": None}, "stages": {"rank": rank}})
    folder.finish_stage("select", {"seed": 1}, [], {"rows": 3, "threshold": None, "other": "x"}, {"seed": 1})
    content = json.loads((tmp_path / "manifest.json").read_text())
    select = content["stages"].pop("select")
    assert content == {"machine": {"gpus": []}, "extra": {"a": None}, "seed": 1, "config": {}, "stages": {"rank": rank}}
    assert select.pop("finished")
    assert select == {"inputs": {"seed": 1}, "outputs": {}, "rows": 3, "threshold": None, "other": "x"}


def test_the_entry_of_a_stage_has_typed_facts():
    manifest = Manifest(stages={"rank": StageEntry(inputs={}, outputs={"a": "0"}, rows=3, seconds=1.5, more=[1])})
    entry = manifest.stages["rank"]
    assert (entry.rows, entry.seconds, entry.tokens) == (3, 1.5, None)
    assert entry.facts() == {"rows": 3, "seconds": 1.5, "more": [1]}


def test_deeply_nested_unknown_keys_are_kept(tmp_path):
    nested: list = []
    for _ in range(400):
        nested = [nested]
    folder = RunFolder(tmp_path)
    folder.write_json("manifest.json", {"deep": nested})
    folder.finish_stage("rank", {}, [], {}, {})
    assert json.loads((tmp_path / "manifest.json").read_text())["deep"] == nested
