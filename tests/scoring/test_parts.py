"""A run that was interrupted goes on to the same files, and files of other frames or models are refused."""

from __future__ import annotations

import pandas as pd
import pytest

import ebmeta
from ebmeta.scoring.batches import score_batches
from ebmeta.scoring.parts import score_parts
from tests.scoring.test_batches import divided


def test_an_interrupted_run_is_continued_to_the_same_files(rows, shops, tmp_path):
    frames = divided(rows, 6)
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "part-00002.parquet").touch()  # as after a power cut
    whole = score_parts(shops, frames, tmp_path / "whole", progress=False, keep=["id"])
    assert (whole.parts, whole.kept, whole.groups, whole.rows) == (6, 0, 60, rows["sold"].isna().sum())
    assert whole.rows_per_second > 0

    def killed():
        yield from frames[:3]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_parts(shops, killed(), tmp_path / "parts", progress=False, keep=["id"])
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "parts").iterdir()}
    assert sorted(before) == [f"part-0000{n}.parquet" for n in range(3)]
    again = score_parts(shops, frames, tmp_path / "parts", progress=False, keep=["id"])
    assert (again.parts, again.kept, again.groups) == (6, 3, 60)
    assert {name: (tmp_path / "parts" / name).stat().st_mtime_ns for name in before} == before
    for path in (tmp_path / "whole").iterdir():
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "parts" / path.name), pd.read_parquet(path))
    wanted = pd.concat(score_batches(shops, frames, keep=["id"]), ignore_index=True)
    found = pd.concat(map(pd.read_parquet, sorted((tmp_path / "whole").iterdir())), ignore_index=True)
    pd.testing.assert_frame_equal(found, wanted, check_dtype=False)


def test_parts_of_something_else_are_refused(rows, shops, tmp_path):
    frames = divided(rows, 3)
    score_parts(shops, frames[:1], tmp_path, progress=False)
    assert score_parts(shops, frames[:1], tmp_path, progress=False, num_draws=0, keep=()).kept == 1  # the defaults
    with pytest.raises(ValueError, match=r"^num_draws: expected at least 0, got -1$"):
        score_parts(shops, frames[:1], tmp_path, progress=False, num_draws=-1)
    with pytest.raises(TypeError, match=r"^score_parts\(\) got an unexpected keyword argument 'keeep'$"):
        score_parts(shops, frames[:1], tmp_path, progress=False, keeep=())
    with pytest.raises(ValueError, match=r"^seed: expected a non-negative integer of at most 63 bits, got -1$"):
        score_parts(shops, frames[:1], tmp_path, progress=False, seed=-1)
    with pytest.raises(ValueError, match=r"part-00000.parquet: expected predictions of this frame, got others; choose"):
        score_parts(shops, frames[::-1], tmp_path, progress=False)
    with pytest.raises(ValueError, match=r"expected predictions of this model with these options, got others"):
        score_parts(shops, frames, tmp_path, progress=False, num_steps=0)
    other = ebmeta.load(shops)
    other.prior.loc.data += 1
    ebmeta.save(other, tmp_path / "other", ebmeta.load_encoder(shops))
    with pytest.raises(ValueError, match=r"expected predictions of this model with these options, got others"):
        score_parts(tmp_path / "other", frames, tmp_path, progress=False)
    score_parts(shops, frames, tmp_path, progress=False)
    with pytest.raises(ValueError, match=r"part-00002.parquet: expected none but those of 2 frames, got another"):
        score_parts(shops, frames[:2], tmp_path, progress=False)
    (tmp_path / "part-00001.parquet").unlink()  # another one is left behind the gap
    with pytest.raises(ValueError, match=r"part-00002.parquet: expected none but those of 1 frames, got another"):
        score_parts(shops, frames[:1], tmp_path, progress=False)
    (tmp_path / "part-00000.parquet").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"part-00000.parquet: expected a new file or a table written by ebmeta"):
        score_parts(shops, frames, tmp_path, progress=False)


def test_a_group_in_a_part_that_is_there_is_known(rows, shops, tmp_path):
    first, rest = rows.iloc[:10], rows.iloc[10:]
    score_parts(shops, [first], tmp_path, progress=False)
    with pytest.raises(ValueError, match="expected all its rows in one frame"):
        score_parts(shops, [first, rest], tmp_path, progress=False)
    assert len(list(tmp_path.iterdir())) == 1
