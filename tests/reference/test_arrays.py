"""Plain arrays for the reference samplers: features of a predictor, padding blanked, every dimension named."""

import numpy as np
import torch
from builders import class_tasks, classifier, number_tasks, regressor

from ebmeta.reference.arrays import blank, in_64_bits, label, rows_of, side_by_side


def test_rows_are_features_labels_masks_and_sizes():
    model, batch = regressor(likelihood="poisson"), number_tasks("poisson")
    found = rows_of(model, batch.support, batch.way_mask)
    np.testing.assert_allclose(found["x"], model.predictor.features(batch.support_x, batch.support_mask).detach())
    np.testing.assert_array_equal(found["y"], batch.support_y)
    np.testing.assert_array_equal(found["size"], batch.support_size)
    assert found["x"].dtype == np.float64
    unlabelled = rows_of(model, batch.unlabelled().query, batch.way_mask)
    assert set(unlabelled) == {"x", "mask", "size", "way_mask"}


def test_rows_without_sizes_have_one_each_and_the_model_keeps_its_mode():
    model, batch = classifier().train(), class_tasks()
    assert (rows_of(model, batch.query, batch.way_mask)["size"] == 1).all()
    assert model.training


def test_padding_is_blank():
    mask = np.array([[True, False]])
    np.testing.assert_array_equal(blank(np.array([[1.5, 2.5]]), mask), [[1.5, np.nan]])
    assert blank(np.array([[3, 4]]), mask).tolist() == [[3, -1]]


def test_every_dimension_of_a_tree_has_a_coordinate():
    w, y = (("chain", "draw", "way"), np.zeros((2, 3, 2))), (("row",), [5, 6])
    tree = label({"posterior": {"w": w}, "observed_data": {"y": y}}, {"way": ["cat", "dog"]})
    assert tree["posterior"]["way"].values.tolist() == ["cat", "dog"]
    assert tree["posterior"]["draw"].values.tolist() == [0, 1, 2]
    assert tree["observed_data"]["row"].values.tolist() == [0, 1]


def test_jax_computes_in_64_bits_inside_the_block_alone():
    import jax.numpy as jnp

    before = jnp.ones(1).dtype
    with in_64_bits():
        assert jnp.asarray(torch.ones(1, dtype=torch.float64).numpy()).dtype == np.float64
    assert jnp.ones(1).dtype == before


def test_every_chain_of_a_task_gets_what_is_of_the_task():
    keys = np.arange(6.0).reshape(2, 3)  # of two chains of three tasks

    def run(key, own, loc, shared):
        return {"key": key, "own": own["x"] + shared, "loc": loc * key}

    found = side_by_side(run, 2)(keys, {"x": np.arange(12.0).reshape(3, 4)}, np.array([1.0, 10.0, 100.0]), 0.5)
    np.testing.assert_array_equal(found["key"], keys)
    np.testing.assert_array_equal(found["own"], np.tile(np.arange(12.0).reshape(1, 3, 4) + 0.5, (2, 1, 1)))
    np.testing.assert_array_equal(found["loc"], [[0.0, 10.0, 200.0], [3.0, 40.0, 500.0]])
