"""Names that other packages have for what a mixed model is told, and what to write here."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, TypeVar, cast

from ebmeta.foundation.checks import found

__all__ = ["attribute_here", "named_here", "term_here", "words_of_likelihood"]

T = TypeVar("T", bound=Callable[..., Any])
CALL = re.compile(r"\s*([\w.]+)\s*\((.*)\)\s*")

#: Arguments of `lmer`, `glmer`, of `mixedlm` in statsmodels, of `Model` in bambi, and of `rma`.
ARGUMENTS = {
    "family": "write likelihood={value}",
    "REML": "write reml={value}",
    "groups": "write groups in the formula, as in 'y ~ x + (1 | g)'",
    "re_formula": "write terms of groups in the formula, as in 'y ~ x + (1 + x | g)'",
    "vc_formula": "write terms of groups in the formula, as in 'y ~ x + (1 | g) + (1 | h)'",
    "nAGQ": "leave it out: the rule of quadrature is as fine as it needs to be",
    "control": "leave it out: the optimiser has no settings",
    "start": "leave it out: the optimiser needs no start",
    "priors": "write hyperprior=True, the one prior that there is",
    "trials": "write size=...",
    "exposure": "write size=...",
    "vi": "write known_noise=..., standard deviations: the roots of variances",
    "sei": "write known_noise={value}",
    "se": "write known_noise={value}",
    "dispformula": "write known_noise=..., the standard deviations of labels where they are known",
    "na_action": "write na='drop' or na='raise'",
    "dropna": "write na='drop' or na='raise'",
    "subset": "give a frame of the rows that are wanted",
}
#: Families, in small letters and without marks.
FAMILIES = {
    "gaussian": "normal",
    "lognormal": "log_normal",
    "t": "student_t",
    "student": "student_t",
    "studentt": "student_t",
    "gamma": "gamma",
    "betafamily": "beta",
    "logistic": "bernoulli",
    "logit": "bernoulli",
    "binary": "bernoulli",
    "quasibinomial": "binomial",
    "quasipoisson": "negative_binomial",
    "nb": "negative_binomial",
    "nbinom2": "negative_binomial",
    "negbinomial": "negative_binomial",
    "negativebinomial": "negative_binomial",
    "zip": "zero_inflated_poisson",
    "zeroinflatedpoisson": "zero_inflated_poisson",
    "zinb": "zero_inflated_negative_binomial",
    "zeroinflatednegativebinomial": "zero_inflated_negative_binomial",
    "cumulative": "ordinal",
    "ordered": "ordinal",
    "clmm": "ordinal",
}
#: Functions and marks of R in a formula.
TERMS = {
    r"as\.factor\(|factor\(|ordered\(": "C(x) takes the numbers of a column for categories",
    r"relevel\(": "C(x, Treatment('b')) has the category b as its reference",
    r"ns\(|\bs\(": "bs(x, df=5) and poly(x, 2) are the curves that there are",
    r"interaction\(|%in%": "a:b is the interaction of a and b",
    r"ifelse\(": "I(x > 0) is 1 where it holds and 0 elsewhere",
    r"as\.numeric\(|cut\(": "make a column of it in the frame first",
    r"\bTRUE\b|\bFALSE\b": "write True and False",
    r"\^": "** is the power",
    r"\d[eE][-+]?\d": "write numbers without an exponent, as 0.001",
    r"//|%": "make a column of it in the frame first",
    r"\$": "name the column alone",
    r"(?<![\w.)])\.(?![\w.(])": "name the columns, as in 'y ~ a + b + (1 | g)'",
}

#: What fits of lme4, glmmTMB and statsmodels have under another name, or a fit here under a longer one.
ATTRIBUTES = {
    "effects ranef random_effects re blup": "group_effects",
    "fixef fe_params params bse pvalues tvalues": "fixed_effects",
    "coef coefficients": "fixed_effects, to which group_effects adds those of each group",
    "vcov cov_params covariance": "fixed_effects_covariance",
    "VarCorr varcorr vcomp cov_re scale sigma": "variance_components",
    "llf loglik logLik": "log_likelihood",
    "resid fittedvalues fitted": "residuals",
    "conf_int": "confint()",
    "anova": "ebmeta.compare(fit, other)",
    "simulate": "tree",
    "name family": "likelihood",
}


def attribute_here(name: str) -> str:
    """Return what a fit has in the place of an attribute, in brackets; nothing where that is not known.

    Examples:
        >>> attribute_here("ranef")
        ' (it is group_effects)'
    """
    return next((f" (it is {here})" for names, here in ATTRIBUTES.items() if name in names.split()), "")


def named_here(function: T) -> T:
    """Refuse arguments that are another package's by what to write in their place."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        for name in kwargs:
            if name in ARGUMENTS:
                value = kwargs[name]
                here = ARGUMENTS[name].format(value=found(_family(value) or value))
                raise TypeError(f"{name}: expected an argument of another name ({here}), got {name}={found(value)}")
        return function(*args, **kwargs)

    return cast(T, call)


def words_of_likelihood(name: str) -> str:
    """Return what to write for a family of another package, in brackets; nothing where that is not known.

    Examples:
        >>> words_of_likelihood("gaussian(link='identity')")
        " (write 'normal'; each likelihood has one link)"
    """
    here, call = _family(name), CALL.fullmatch(name)
    one = "; each likelihood has one link" if call is not None and call[2].strip() else ""
    return f" (write {here!r}{one})" if here else ""


def _family(name: Any) -> str | None:
    """Return the likelihood that a family of another package is, a link left out; None where none is known."""
    if not isinstance(name, str):
        return None
    call = CALL.fullmatch(name)
    bare = name if call is None else call[1]
    return FAMILIES.get(re.sub(r"[\W_]", "", bare).lower(), None if call is None else bare)


def term_here(text: str) -> str:
    """Return what to write for what a formula of R has, in brackets; nothing where that is not known.

    Examples:
        >>> term_here("I(x^2)")
        ' (** is the power)'
    """
    return next((f" ({words})" for mark, words in TERMS.items() if re.search(mark, text)), "")
