"""What is written of a fit: the fitted rows of the columns of its formula alone, and its parameters."""

import numpy as np
import pandas as pd

import ebmeta
from ebmeta.mixed.content import content_of


def test_a_folder_holds_the_rows_of_the_formula_and_no_other_column():
    rows = pd.DataFrame({"y": [1.0, 2.0, 4.0, 5.5, np.nan, 3.0], "g": list("aabbcc"), "secret": range(6)})
    fit = ebmeta.mixed_model("y ~ 1 + (1 | g)", rows, reml=True)
    config, tensors = content_of(fit.design, fit.engine, fit.optimum, fit.likelihood, None)
    assert [c["name"] for c in config["columns"]] == ["g", "y"]
    assert config["columns"][0] == {"name": "g", "kind": "texts", "levels": ["a", "b", "c"]}
    assert (config["formula"], config["reml"], config["counts"]) == ("y ~ 1 + (1 | g)", True, [6, 0, 1])
    assert tensors["columns.1"].tolist() == [1.0, 2.0, 4.0, 5.5, 3.0]
    assert tensors["at"].tolist() == fit.optimum.at.tolist()
    assert set(tensors) == {"columns.0", "columns.1", "index.0", "at", "state.curvature"}
