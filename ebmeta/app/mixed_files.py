"""The command `ebmeta mixed`, which fits a mixed model to a file and writes its tables."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebmeta.app.files import Targets, finish, remove_old
from ebmeta.app.parser import Whole, app, check_files

if TYPE_CHECKING:
    import pandas as pd

    from ebmeta.mixed.result import MixedModel

__all__ = ["COVERAGE", "TABLES", "mixed", "predict_rows"]

COVERAGE = 0.9  # of the intervals of predictions
TABLES = ("fixed_effects", "variance_components", "group_effects")


@app.command
def mixed(
    data: Path,
    formula: str,
    *,
    output: Path,
    predict: Path | None = None,
    likelihood: str = "normal",
    levels: str | None = None,
    size: str | None = None,
    offset: str | None = None,
    weights: str | None = None,
    known_noise: str | None = None,
    reml: bool = False,
    hyperprior: bool = False,
    propagate: bool = False,
    coverage: float | None = None,
    seed: Whole = 0,
    json: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Fit a mixed model of a formula such as "y ~ x + (1 + x | g)" to a file; write tables, figures and a page.

    Args:
        data: CSV or parquet file with a row for each label.
        formula: response, common terms, and terms of groups in brackets with a bar, as in lme4.
        output: folder of page.html with all that is below, fixed_effects.csv, variance_components.csv,
            group_effects.csv, residuals.csv and, with --predict, predictions.csv; figures as PNG files; and the fit
            itself in model/, which `ebmeta.load` reads.
        predict: file of new rows of old or new groups; labels in it say something of new groups, and may be empty.
        likelihood: what labels are: normal, student_t, log_normal, gamma, beta, ordinal, bernoulli,
            binomial, poisson, negative_binomial, zero_inflated_poisson or zero_inflated_negative_binomial.
        levels: for ordinal labels that are texts, these from the lowest to the highest, such as low,mid,high.
        size: column of trials or exposure.
        offset: column of a known part of the linear predictor.
        weights: column of how much each row counts.
        known_noise: column of the known standard deviation of each label, such as standard errors of a meta-analysis.
        reml: restricted maximum likelihood.
        hyperprior: keep spreads from 0 by a Gamma(2, 0.1) density.
        propagate: tables and predictions carry the uncertainty of the parameters.
        coverage: probability that a new label is in its interval in predictions.csv, 0.9 by default; the intervals of
            the other tables are of 95%.
        seed: seed of the draws of --propagate.
        json: also write the estimates and the summary to this file.
        overwrite: replace also files that ebmeta did not write; never those that it reads.
    """
    from ebmeta.formula.grammar import parse
    from ebmeta.foundation.checks import between, check
    from ebmeta.mixed.fit import mixed_model

    if coverage is not None and predict is None:
        raise ValueError(
            f"--coverage: expected --predict with it, got {coverage:g} alone (the intervals of the tables are of 95%)"
        )
    coverage = check("coverage", COVERAGE if coverage is None else coverage, float, between(0, 1))
    if not 0 <= seed < 2**63:
        raise ValueError(f"--seed: expected a non-negative integer of at most 63 bits, got {seed}")
    check_files(_targets(output), json, overwrite, DATA=data, **{"--predict": predict})
    columns: dict[str, Any] = {"size": size, "offset": offset, "weights": weights, "known_noise": known_noise}
    rows = _rows(data, formula)
    if levels is not None:
        rows = _in_order(rows, parse(formula).response, levels)
    if predict is not None:
        _check_new(predict, formula, rows, columns)
    fit = mixed_model(formula, rows, likelihood, reml=reml, hyperprior=hyperprior, **columns)
    new = None if predict is None else _new_rows(predict, fit)
    fit = fit.propagate(seed=seed) if propagate else fit
    tables = {name: getattr(fit, name).reset_index() for name in TABLES}
    tables["residuals"] = fit.residuals.reset_index(names="row")
    if new is not None:
        tables["predictions"] = _predictions(fit, new, coverage)
    files = _write(fit, tables, rows, output, overwrite)
    summary = fit.summary()
    print(summary, "", f"{output}: page.html, {files}", sep="\n")
    if new is not None:
        print(f"{output / 'predictions.csv'}: {_told(tables['predictions'], coverage)}")
    result = {
        "formula": formula,
        "likelihood": likelihood,
        "log_likelihood": fit.log_likelihood,
        "aic": fit.aic,
        "converged": fit.converged,
        **{name: fit_table.to_dict("records") for name, fit_table in tables.items() if name in TABLES[:2]},
        "summary": summary,
    }
    finish(result, json, overwrite)


def predict_rows(folder: Path, rows: Path, output: Path, coverage: float, overwrite: bool) -> dict[str, Any]:
    """Predict the rows of a file by a saved mixed model, and write mean, sd and interval of a label for each.

    Args:
        folder: of the model.
        rows: CSV or parquet file; labels in it say something of new groups, and may be empty.
        output: npz, CSV or parquet.
        coverage: probability that a label is in its interval.
        overwrite: replace also a file that ebmeta did not write.

    Returns:
        A summary for a machine.

    Raises:
        OSError: if a file cannot be read or written.
        ValueError: if a file does not fit the model, or the output is of an unknown type.
    """
    from ebmeta.app.predict_files import check_output
    from ebmeta.app.sources import column_errors
    from ebmeta.app.tables import READS, write_table
    from ebmeta.mixed.storage import load_fit

    check_output(output, READS)
    fit = load_fit(folder)
    new = _new_rows(rows, fit)
    with column_errors(rows):
        table = _predictions(fit, new, coverage)
    write_table(output, {str(c): table[c].to_numpy() for c in table}, overwrite)
    print(f"{output}: {_told(table, coverage)}, by {fit.formula}")
    summary = {"rows": len(table), "empty": _num_empty(table), "formula": fit.formula, "coverage": coverage}
    return {"output": str(output), **summary}


def _rows(data: Path, formula: str) -> pd.DataFrame:
    """Return the rows of a file, with names of groups as `ebmeta predict` compares them: `31.0` is `31`, not `031`.

    A column that is a term too is read as any other one is, or the numbers in it would be categories.
    """
    from ebmeta.tasks.frame_files import notes_on_words, read_frame

    rows = read_frame(data, _named(formula)[0])
    groups, terms = _named(formula, rows)
    rows = read_frame(data, groups - terms) if groups & terms else rows
    for said in notes_on_words(data, rows, sorted((groups | terms).intersection(rows))):
        print(said)
    return rows.assign(**{name: _ids(data, name, rows[name]) for name in groups - terms if name in rows})


def _named(formula: str, rows: pd.DataFrame | None = None) -> tuple[set[str], set[str]]:
    """Return the columns that a formula names as groups, and among those of some rows as terms."""
    from ebmeta.formula.grammar import parse
    from ebmeta.formula.terms import variables

    parts = parse(formula)
    groups = {name for bar in parts.bars for name in bar.factor}
    if rows is None:
        return groups, set()
    texts = parts.common, *(bar.terms for bar in parts.bars)
    return groups, {name for text in texts for name in variables(text, rows)}


def _check_new(path: Path, formula: str, rows: pd.DataFrame, columns: dict[str, str | None]) -> None:
    """Raise `ValueError` before the fit, which may take long, where new rows lack a column of formula or flags."""
    from ebmeta.foundation.telling import named
    from ebmeta.tasks.frame_files import read_frame

    groups, terms = _named(formula, rows)
    there = list(read_frame(path).columns)
    needed = {flag: name for flag, name in columns.items() if name is not None and flag != "weights"}
    asked = {name: f"--{flag.replace('_', '-')}" for flag, name in needed.items()}
    asked |= dict.fromkeys(groups | terms, "the formula")
    if absent := sorted(set(asked).intersection(rows) - set(there)):
        raise ValueError(f"{path}: expected a column {absent[0]!r}, which {asked[absent[0]]} names, got {named(there)}")


def _ids(path: Path, name: str, column: pd.Series[Any]) -> list[Any]:
    """Return names of groups as files are compared by; an error names the file and the column."""
    from ebmeta.app.sources import column_errors
    from ebmeta.tasks.frame_files import as_ids

    with column_errors(path, groups=name):
        return as_ids(column)


def _new_rows(path: Path, fit: MixedModel) -> pd.DataFrame:
    """Return the rows of another file, with names of groups as the fit has them; say where it has none of them."""
    from ebmeta.tasks.frame_files import as_ids, notes_on_words, read_frame
    from ebmeta.tasks.spellings import tell_of_near

    rows = read_frame(path, fit.design.alone)
    for said in notes_on_words(path, rows, [name for name in fit.design.columns if name in rows]):
        print(said)
    for name in set(fit.design.alone).intersection(rows):
        known = fit.design.names[name]
        spelled = dict(zip(as_ids(known), known, strict=True)) | {one: one for one in known}
        own = _ids(path, name, rows[name])
        rows[name] = [spelled.get(v, spelled.get(i, i)) for v, i in zip(rows[name], own, strict=True)]
        if len(rows) and not rows[name].isin(known).any():
            unknown = f"no {name!r} of {path} is among those of the fit; all are predicted as new groups"
            print(f"ebmeta: warning: {unknown}", file=sys.stderr)
        else:
            tell_of_near(rows[name], known, f"{path}: column {name!r}", "groups")
    return rows


def _write(fit: MixedModel, tables: dict[str, pd.DataFrame], rows: pd.DataFrame, output: Path, overwrite: bool) -> str:
    """Write all files but the machine-readable result; return the names of those beside the page."""
    from ebmeta.app.mixed_page import MixedPage, draw_figures, save_figures
    from ebmeta.app.tables import write_table
    from ebmeta.model.storage import model_files

    figures = draw_figures(fit, rows)
    output.mkdir(exist_ok=True)
    names = [*(f"{name}.csv" for name in tables), *(f"{name}.png" for name in figures)]
    remove_old(
        _targets(output), [output / "page.html", *(output / name for name in names), *model_files(output / "model")]
    )
    for name, table in tables.items():
        write_table(output / f"{name}.csv", {str(c): table[c].to_numpy() for c in table}, overwrite)
    save_figures(figures, output, overwrite)
    fit.save(output / "model", overwrite=overwrite)
    files = ", ".join([*names, "model"])
    MixedPage(fit, figures, f"Beside this page: {files}.").write(output / "page.html", overwrite)
    return files


def _predictions(fit: MixedModel, new: pd.DataFrame, coverage: float) -> pd.DataFrame:
    """Return number, groups and prediction of each row."""
    import pandas as pd

    from ebmeta.app.questions import joined

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "new_data: column", UserWarning)  # said with the name of the file
        found = fit.predict(new, coverage)
    groups = {name: new[name].to_numpy() for factor in fit.design.factors for name in factor}
    predictions = {str(name): found[name].to_numpy() for name in found}
    return pd.DataFrame(joined(("row", found.index.to_numpy()), groups, predictions))


def _num_empty(table: pd.DataFrame) -> int:
    """Return how many rows of a table of predictions lack a value that the formula names."""
    return int(table["lower"].isna().sum())


def _told(table: pd.DataFrame, coverage: float) -> str:
    """Return what a table of predictions holds, in a line."""
    from ebmeta.app.classify_files import counted

    said = f"predictions of {counted(len(table), 'row')} with {100 * coverage:g}% intervals"
    if not (empty := _num_empty(table)):
        return said
    return f"{said}, {empty} of them empty, as {'it lacks' if empty == 1 else 'they lack'} a value of a term"


def _in_order(rows: pd.DataFrame, response: str, levels: str) -> pd.DataFrame:
    """Return rows whose labels are categories in the order of `levels`."""
    import pandas as pd

    from ebmeta.app.sources import listed

    names = listed(levels)
    if response not in rows or rows[response].dtype.kind in "iufb":
        raise ValueError(f"--levels: expected a column of texts as the response, got {response!r}")
    if strange := sorted(set(rows[response].dropna()) - set(names)):
        raise ValueError(f"--levels: expected all labels of {response!r} among {', '.join(names)}, got {strange[0]!r}")
    return rows.assign(**{response: pd.Categorical(rows[response], names, ordered=True)})


def _targets(output: Path) -> Targets:
    """Return the files that are written, where their folder exists."""
    from ebmeta.app.mixed_page import FIGURES
    from ebmeta.model.storage import model_files

    if not output.is_dir():
        return []
    names: Targets = [("--output", output / f"{name}.csv", "table") for name in (*TABLES, "residuals", "predictions")]
    names += [("--output", output / f"{name}.png", "picture") for name in FIGURES]
    names += [("--output", path, kind) for path, kind in model_files(output / "model").items()]
    return [*names, ("--output", output / "page.html", "page")]
