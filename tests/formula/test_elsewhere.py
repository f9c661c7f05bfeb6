"""Names of other packages are refused by what to write here."""

from __future__ import annotations

import inspect

import numpy as np
import pandas as pd
import pytest

from ebmeta.formula.elsewhere import attribute_here, term_here, words_of_likelihood
from ebmeta.mixed.fit import mixed_model
from tests.mixed.worlds import frame


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gaussian", " (write 'normal')"),
        ("Gamma", " (write 'gamma')"),
        ("negative.binomial(theta=2)", " (write 'negative_binomial'; each likelihood has one link)"),
        ("poisson(link='log')", " (write 'poisson'; each likelihood has one link)"),
        ("binomial()", " (write 'binomial')"),
        ("zero-inflated Poisson", " (write 'zero_inflated_poisson')"),
        ("gumbel", ""),
    ],
)
def test_families_are_named_as_here(name, words):
    assert words_of_likelihood(name) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("as.factor(period)", "C(x) takes the numbers of a column for categories"),
        ("relevel(kind, ref='b')", "C(x, Treatment('b')) has the category b as its reference"),
        ("ns(x, 3)", "bs(x, df=5) and poly(x, 2) are the curves that there are"),
        ("x^2", "** is the power"),
        ("poly(x, 2, raw=TRUE)", "write True and False"),
        ("I(x * 1e-3)", "write numbers without an exponent, as 0.001"),
        ("I(x // 2)", "make a column of it in the frame first"),
        ("data$x", "name the column alone"),
        ("a %in% b", "a:b is the interaction of a and b"),
        (".", "name the columns, as in 'y ~ a + b + (1 | g)'"),
    ],
)
def test_terms_of_r_are_told_from_each_other(text, words):
    assert term_here(text) == f" ({words})"


@pytest.mark.parametrize("text", ["x + 0.5", "bs(x, df=4)", "np.log(x)", "poly(x, 2)", "C(kind)", "I(x ** 2)", "a:b"])
def test_terms_of_ours_are_told_nothing(text):
    assert term_here(text) == ""


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"family": "gaussian"}, "family: expected an argument of another name (write likelihood='normal'), got"),
        ({"family": "binomial(link='logit')"}, "(write likelihood='binomial'), got family=\"binomial(link='logit')\""),
        ({"REML": True}, "REML: expected an argument of another name (write reml=True), got REML=True"),
        ({"groups": "g"}, "(write groups in the formula, as in 'y ~ x + (1 | g)'), got groups='g'"),
        ({"nAGQ": 9}, "(leave it out: the rule of quadrature is as fine as it needs to be), got nAGQ=9"),
    ],
)
def test_arguments_of_other_packages_are_named_as_here(given, said):
    with pytest.raises(TypeError) as error:
        mixed_model("y ~ x + (1 | g)", frame(), **given)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(TypeError, match="unexpected keyword argument 'nonsense'"):
        mixed_model("y ~ x + (1 | g)", frame(), nonsense=1)
    assert "likelihood" in inspect.signature(mixed_model).parameters


def test_messages_of_a_fit_have_these_words():
    data = frame().reset_index(drop=True)
    data["grade"] = np.array(["low", "mid", "high"])[np.arange(len(data)) % 3]
    data["yes"] = np.where(data["x"] > 2000, "yes", "no")
    for formula, likelihood, words in (
        ("y ~ x + (1 | g)", "gaussian", "got 'gaussian' (write 'normal')"),
        ("y ~ factor(x) + (1 | g)", "normal", "got 'factor' (C(x) takes the numbers of a column for categories)"),
        ("y ~ I(x^2) + (1 | g)", "normal", "(** is the power)"),
        ("yes ~ x + (1 | g)", "bernoulli", "(write yes['yes'] for 1 where it is 'yes' and 0 elsewhere)"),
        ("grade ~ x + (1 | g)", "ordinal", "or tell their order by pd.Categorical(data['grade'], [...], ordered=True)"),
    ):
        with pytest.raises(ValueError) as error:
            mixed_model(formula, data, likelihood)
        assert words in str(error.value)
        assert "\n" not in str(error.value)
    same = mixed_model("y ~ x + (1 | as.factor(g))", data)  # groups are categories anyway
    pd.testing.assert_frame_equal(same.group_effects, mixed_model("y ~ x + (1 | g)", data).group_effects)


@pytest.mark.parametrize(
    ("name", "here"),
    [("ranef", "group_effects"), ("effects", "group_effects"), ("params", "fixed_effects"), ("llf", "log_likelihood")],
)
def test_a_fit_says_what_it_has_for_an_attribute_of_others(name, here):
    fit = mixed_model("y ~ x + (1 | g)", frame())
    with pytest.raises(AttributeError, match=f"^MixedModel has no '{name}' \\(it is {here}\\)$"):
        getattr(fit, name)
    assert hasattr(fit, here)
    assert not hasattr(fit, "nothing")
    assert attribute_here("nothing") == ""
    assert fit.likelihood == "normal"
