"""Folders of a model are whole, of one writer, and say what they hold."""

import pytest
import torch

from ebmeta.foundation.folders import checksum_of, kind_in, model_files, read_folder, write_folder

ENTRY = {"config": {"kind": "toy", "size": 2}}
TENSORS = {"a": torch.arange(3.0)}


def nothing(*_):
    return None


def test_what_is_written_is_read(tmp_path):
    write_folder(tmp_path / "deep" / "model", ENTRY, TENSORS, False)
    entry, tensors = read_folder(tmp_path / "deep" / "model", nothing, nothing)
    assert entry["config"] == ENTRY["config"]
    assert torch.equal(tensors["a"], TENSORS["a"])
    assert kind_in(tmp_path / "deep" / "model") == "toy"
    assert {path.name for path in (tmp_path / "deep" / "model").iterdir()} == {"config.json", "model.safetensors"}
    assert set(model_files(tmp_path)) == {tmp_path / "config.json", tmp_path / "model.safetensors"}


def test_a_second_writer_replaces_both_files(tmp_path):
    write_folder(tmp_path, ENTRY, TENSORS, False)
    write_folder(tmp_path, {"config": {"kind": "other"}}, {"b": torch.zeros(1)}, False)
    entry, tensors = read_folder(tmp_path, nothing, nothing)
    assert entry["config"] == {"kind": "other"}
    assert list(tensors) == ["b"]
    assert "previous" not in entry


def test_tensors_of_another_folder_are_refused(tmp_path):
    for name, value in (("one", 1.0), ("two", 2.0)):
        write_folder(tmp_path / name, ENTRY, {"a": torch.tensor([value])}, False)
    (tmp_path / "one" / "model.safetensors").write_bytes((tmp_path / "two" / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match="expected the tensors that config.json was written with, got others"):
        read_folder(tmp_path / "one", nothing, nothing)
    with pytest.raises(ValueError, match="one: expected a of shape 1: another model"):
        read_folder(tmp_path / "one", lambda *_: "expected a of shape 1", nothing)


def test_numbers_without_end_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="save: expected finite numbers in a, got nan"):
        write_folder(tmp_path / "model", ENTRY, {"a": torch.tensor([torch.nan])}, False)
    assert not (tmp_path / "model").exists()


def test_the_checksum_leaves_out_what_is_about_writing():
    assert checksum_of({"a": 1, "previous": {}, "ebmeta": "model", "checksum": "x"}) == checksum_of({"a": 1})
    assert checksum_of({"a": 1}) != checksum_of({"a": 2})
