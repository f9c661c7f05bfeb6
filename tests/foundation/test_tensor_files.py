"""Files of tensors: what was changed is refused."""

import pytest
import torch

from ebmeta.foundation.tensor_files import read_tensors, write_tensors


def test_changed_tensors_are_refused(tmp_path):
    path = tmp_path / "c"
    write_tensors(path, {"a": torch.arange(6.0)}, {"n": 1}, "checkpoint")
    assert read_tensors(path, "checkpoint").header == {"n": 1}
    whole = path.read_bytes()
    for change in (whole[:-1] + bytes([whole[-1] ^ 1]), whole.replace(b'\\"n\\": 1', b'\\"n\\": 2')):
        path.write_bytes(change)
        with pytest.raises(ValueError, match="expected the tensors that were written, got others"):
            read_tensors(path, "checkpoint")
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="expected a model, got a 'checkpoint'"):
        read_tensors(path, "model")
    for content in (b"", b"short", b"\xff" * 100, b"\x02\0\0\0\0\0\0\0[]", b"\x02\0\0\0\0\0\0\0{}", whole[:200]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="expected a complete safetensors file written by ebmeta"):
            read_tensors(path, "checkpoint")
