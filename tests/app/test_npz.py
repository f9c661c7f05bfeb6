"""Archives of arrays: what they state is compared with what they hold before memory is asked for."""

import io
import struct
import zipfile

import numpy as np
import pytest

from ebmeta.app.npz import read_npz


def member(array=None, header=None, data=b""):
    """Return the bytes of an npy file, with a header of one's own where it is given."""
    if header is None:
        buffer = io.BytesIO()
        np.save(buffer, array)
        return buffer.getvalue()
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + data


def archive(path, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in members:
            file.writestr(name, content)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_wrote_is_read(tmp_path, save):
    arrays = {
        "X": np.arange(6.0).reshape(2, 3),
        "y": np.array(["a", "é"]),
        "f": np.asfortranarray(np.eye(3)),
        "n": np.array(5),
    }
    save(tmp_path / "a.npz", **arrays, none=np.zeros((0, 4)), zeros=np.zeros(10**6))
    got = read_npz(tmp_path / "a.npz")
    assert got.keys() == {*arrays, "none", "zeros"}
    for name, array in arrays.items():
        np.testing.assert_array_equal(got[name], array)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (
            [("X.npy", member(header="{'descr': '<f8', 'fortran_order': False, 'shape': (10**12, 3), }"))],
            "expected a complete npz file",
        ),
        (
            [
                (
                    "X.npy",
                    member(
                        header="{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 3), }", data=b"x" * 8
                    ),
                )
            ],
            r"'X' of shape \(1000000000000, 3\) and float64 takes 24000000000000 bytes, and there are 8",
        ),
        (
            [("X.npy", member(header="{'descr': '<f8', 'fortran_order': False, 'shape': (-1, -8), }", data=b"x" * 64))],
            "'X' of shape",
        ),
        (
            [("X.npy", member(header="{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", data=b"x" * 8))],
            "'X' holds Python objects .save plain numbers or texts, '' where there is no label.",
        ),
        ([("X.npy", member(header="{'descr': '|O'"))], "expected a complete npz file"),
        ([("X.npy", b"not an array")], "magic string"),
        ([("X.npy", member(np.eye(2))[:-1])], "takes 32 bytes, and there are 31"),
        ([("X.npy", member(np.eye(2)) + b"more")], "takes 32 bytes, and there are 36"),
        ([("X.npy", member(header="(" * 100))], "expected a complete npz file"),
    ],
)
def test_what_is_not_there_is_refused(tmp_path, members, message):
    archive(tmp_path / "a.npz", members)
    with pytest.raises(ValueError, match=message) as caught:
        read_npz(tmp_path / "a.npz")
    assert "a.npz: expected a complete npz file, got: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_archives_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        archive(
            path, [("X.npy", member(np.random.default_rng(0).normal(size=50))), ("y.npy", member(np.ones(50)))], method
        )
        whole = path.read_bytes()
        read_npz(path)
        rng, wrong = np.random.default_rng(method), 0
        for _ in range(100):
            changed = bytearray(whole)
            changed[rng.integers(len(whole))] ^= 1 << int(rng.integers(8))
            path.write_bytes(changed)
            try:
                got = read_npz(path)
            except ValueError:
                wrong += 1
            else:
                for name in got.keys() & {"X", "y"}:
                    np.testing.assert_array_equal(got[name], read_whole(whole, tmp_path)[name])
        assert wrong > 50
    # Encrypted, by its flag.
    archive(path, [("X.npy", member(np.eye(2)))])
    path.write_bytes(path.read_bytes().replace(b"PK\1\2\x14\3\x14\0\0", b"PK\1\2\x14\3\x14\0\1"))
    with pytest.raises(ValueError, match="'X' is encrypted"):
        read_npz(path)


def read_whole(whole, folder):
    (folder / "whole.npz").write_bytes(whole)
    return read_npz(folder / "whole.npz")


def test_a_bomb_is_refused_before_it_goes_off(tmp_path):
    path = tmp_path / "a.npz"
    archive(path, [("X.npy", member(np.zeros(10**6)))])
    content = bytearray(path.read_bytes())
    size = len(member(np.zeros(10**6)))
    at = content.rindex(struct.pack("<I", size))
    content[at : at + 4] = struct.pack("<I", 2**32 - 2)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="more bytes than its size can hold"):
        read_npz(path)
