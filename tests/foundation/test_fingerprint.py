"""A fingerprint is of content: the same for equal arrays however they lie, another for every change."""

import numpy as np

from ebmeta.foundation.fingerprint import fingerprint
from tests.training.test_checkpoint import moved


def test_a_fingerprint_is_of_content(tmp_path):
    X = np.arange(3_000_000.0).reshape(-1, 3)
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert fingerprint(mapped) == fingerprint(X) == fingerprint(np.asfortranarray(X))
    assert len({fingerprint(v) for v in (X, moved(X), moved(X, 0), X.astype("f4"), X[:-1], X.reshape(3, -1))}) == 6
    assert fingerprint(np.array(["a", 1], dtype=object)) == fingerprint(np.array(["a", 1], dtype=object))
    assert fingerprint(np.array(5)) != fingerprint(np.array(6))
