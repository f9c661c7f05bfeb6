"""How often 90% intervals of mixed models hold the labels of groups that they were not fitted to, on published data.

A sixth of the groups is left out in turn. A model is fitted to the others, and predicts the rows of those left out,
without labels and with labels of three of their rows. "plain" takes the estimates for the truth, "propagated" averages
over draws of the parameters. Intervals of counts hold more than they say, since they end at counts: "exact" is the
share of a label's own probability that lies in the middle 90% of its predictive distribution. Errors are over groups.
"simulated" is the same for copies of some sets, with effects and labels drawn from the model as fitted to all groups:
what intervals hold where the model is right.
Resumable: a set that is in the JSON file is not done again. `python benchmarks/mixed_coverage.py [SET ...]`
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

import ebmeta
from ebmeta.likelihood import Given
from ebmeta.mixed.over_draws import linear_of
from ebmeta.mixed.predictive import cdf
from lib.common import data_folder, read, write

NAME = "mixed_coverage.json"
LEVEL, LABELLED, DRAWS, FOLDS = 0.9, 3, 32, 6
COPIES = {"cbpp": 40, "rats": 30, "seeds": 30, "pump": 30}  # of a set
NEW = "left out: "  # before the name of a group, so that no fit knows it


class Case(NamedTuple):
    """A set, and the model of it.

    Args:
        formula: of the model.
        group: column of the groups.
        rows: data.
        likelihood: what labels are.
        size: column of the sizes of rows.
    """

    formula: str
    group: str
    rows: pd.DataFrame
    likelihood: str = "normal"
    size: str | None = None


def table(name: str, **types: str) -> pd.DataFrame:
    """Return a file of the data sets."""
    folder = data_folder() / "regression"
    return pd.read_csv(folder / name, sep="\t" if name.endswith(".tsv") else ",").astype(types)


def listed(name: str) -> dict[str, Any]:
    """Return the arrays of a file of the data sets."""
    out: dict[str, Any] = json.loads((data_folder() / "regression" / f"{name}.data.json").read_text())
    return out


def cases() -> dict[str, Case]:
    """Return every set with its model: those that the packages or papers fit which the data come from."""
    rats, seeds, pump = (listed(name) for name in ("rats", "seeds", "pump"))
    y = np.array(rats["y"], float)
    grown = pd.DataFrame({"y": y.ravel(), "x": np.tile(rats["x"], len(y)), "rat": np.repeat(range(len(y)), y.shape[1])})
    plates = pd.DataFrame({k: seeds[k] for k in ("n", "N", "x1", "x2")}).assign(plate=range(seeds["I"]))
    pumps = pd.DataFrame({"t": pump["t"], "x": pump["x"], "pump": range(pump["N"])})
    weather = table("canadian_weather.csv")
    weather = weather[weather["day"] % 30 == 15].assign(
        s=lambda d: np.sin(2 * np.pi * d["day"] / 365), c=lambda d: np.cos(2 * np.pi * d["day"] / 365)
    )
    houses = table("radon_minnesota.csv", county="str")
    players = table("efron_morris_1975.tsv").assign(player=lambda d: d["FirstName"] + " " + d["LastName"])
    sick = "prop(incidence, size) ~ period + (1 | herd)"
    nails = "outcome['moderate or severe'] ~ treatment * time + (1 | patientID)"
    return {
        "sleepstudy": Case("Reaction ~ Days + (Days | Subject)", "Subject", table("sleepstudy.csv", Subject="str")),
        "oxboys": Case("height ~ age + (age | Subject)", "Subject", table("oxboys.csv", Subject="str")),
        "rats": Case("y ~ x + (x | rat)", "rat", grown.astype({"rat": "str"})),
        "radon": Case("`log.radon` ~ basement + uranium + (1 | county)", "county", houses),
        "cheese": Case("log(VOLUME) ~ log(PRICE) + DISP + (log(PRICE) | RETAILER)", "RETAILER", table("cheese.csv")),
        "exam": Case("normexam ~ standLRT + (standLRT | school)", "school", table("exam.csv", school="str")),
        "canadian_weather": Case("temp_C ~ s + c + lat_N + (s + c | station)", "station", weather),
        "berkeley_growth": Case(
            "height_cm ~ sex * poly(age, 4) + (poly(age, 3) | child)", "child", table("berkeley_growth.csv")
        ),
        "cbpp": Case(sick, "herd", table("cbpp.csv", herd="str", period="str"), "binomial"),
        "grouseticks": Case(
            "TICKS ~ YEAR + cHEIGHT + (1 | BROOD)",
            "BROOD",
            table("grouseticks.csv", BROOD="str", YEAR="str"),
            "negative_binomial",
        ),
        "toenail": Case(nails, "patientID", table("toenail.csv", patientID="str"), "bernoulli"),
        "efron_morris": Case("prop(Hits, `At-Bats`) ~ 1 + (1 | player)", "player", players, "binomial"),
        "seeds": Case("prop(n, N) ~ x1 * x2 + (1 | plate)", "plate", plates.astype({"plate": "str"}), "binomial"),
        "pump": Case("x ~ 1 + (1 | pump)", "pump", pumps.astype({"pump": "str"}), "poisson", "t"),
    }


def held(fit: ebmeta.mixed.MixedModel, rows: pd.DataFrame, told: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return whether intervals hold the labels of rows without one, and how much of their probability is in the middle.

    Args:
        fit: of other groups.
        rows: rows of new groups.
        told: whether a row is labelled.
        y: labels of the others.
    """
    new, whole = fit.design.new(rows, fit.design.given_to(None, None))
    assert whole.all()
    members, weight, loc, var = linear_of(fit.engine, fit.optimum.at, fit.draws, fit._effects, new)
    sizes = fit.engine.precisions(new)
    weight = np.broadcast_to(weight.reshape(len(weight), -1), loc.shape)
    given = members, *(v[:, ~told] for v in (weight, loc, var)), None if sizes is None else sizes[~told]
    column = fit.design.response_columns[0]
    labels = fit.design.response.new(rows[~told].assign(**{column: y}))[0]
    above = cdf(labels, *given)
    below = cdf(labels - 1, *given) if members[0].discrete else above
    tail, own = (1 - LEVEL) / 2, above - below
    inside = (above >= tail) & (below < 1 - tail)
    middle = np.clip(above, tail, 1 - tail) - np.clip(below, tail, 1 - tail)
    return np.stack([inside, np.divide(middle, own, out=inside.astype(float), where=own > 0)])


def parts(case: Case) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """Yield the rows of known groups, and those of groups that are left out."""
    names = np.random.default_rng(0).permutation(case.rows[case.group].unique())
    number = pd.Series(np.arange(len(names)) % FOLDS, names)
    fold = number[case.rows[case.group]].to_numpy()
    for k in range(fold.max() + 1):
        out = case.rows[fold == k]
        yield case.rows[fold != k], out.assign(**{case.group: NEW + out[case.group]})


def shares(case: Case) -> pd.DataFrame:
    """Return the shares of every group that is left out, by number of labelled rows, kind and group."""
    found = []
    for known, new in parts(case):
        fit = ebmeta.mixed_model(case.formula, known, case.likelihood, size=case.size)
        unsure = fit.propagate(DRAWS)
        column = fit.design.response_columns[0]
        order = pd.Series(np.random.default_rng(1).random(len(new)), new.index)
        place = order.groupby(new[case.group]).rank().to_numpy() - 1
        large = new.groupby(case.group)[case.group].transform("size").to_numpy() > LABELLED
        for labelled, chosen in ((0, np.ones(len(new), dtype=bool)), (LABELLED, large)):
            rows, told = new[chosen], place[chosen] < labelled
            if not len(rows):
                continue
            asked = rows.assign(**{column: rows[column].where(told)})
            for kind, each in (("plain", fit), ("propagated", unsure)):
                inside = held(each, asked, told, rows[column].to_numpy()[~told])
                own = rows[case.group].to_numpy()[~told]
                found += [(labelled, kind, g, a, b) for g, a, b in zip(own, *inside.astype(float), strict=True)]
    names = ["labelled", "kind", "group", "interval", "exact"]
    return pd.DataFrame(found, columns=names).groupby(names[:3]).mean()


def piece(case: Case) -> dict[str, Any]:
    """Return the coverage of one set."""
    begin = time.process_time()
    out: dict[str, Any] = {"formula": case.formula, "likelihood": case.likelihood}
    out |= {"groups": case.rows[case.group].nunique(), "rows": len(case.rows)}
    for (labelled, kind), each in shares(case).groupby(["labelled", "kind"]):
        error = 1.96 * each["exact"].std(ddof=1) / np.sqrt(len(each))
        cell = {"groups": len(each), "half": round(float(error), 4)}
        out.setdefault(str(labelled), {})[kind] = each.mean().round(4).to_dict() | cell
    return out | {"cpu_seconds": round(time.process_time() - begin, 1)}


def copy(case: Case, seed: int) -> Case:
    """Return a set with the same design, and effects and labels drawn from the model as fitted to all its groups."""
    fit = ebmeta.mixed_model(case.formula, case.rows, case.likelihood, size=case.size)
    rng, rows, at = np.random.default_rng(seed), fit.engine.rows, fit.optimum.at
    covariance = fit.engine.factors[0].covariance(fit.estimate.theta, fit.estimate.sigma)
    grouping = rows.groupings[0]
    effects = rng.multivariate_normal(np.zeros(len(covariance)), covariance, len(grouping.labels))
    eta = rows.x @ fit.estimate.beta + rows.offset + (grouping.z * effects[grouping.codes]).sum(1)
    sizes = fit.engine.precisions(rows)
    given = Given(None if sizes is None else torch.from_numpy(sizes)[None])
    generator = torch.Generator().manual_seed(seed)
    likelihood, ways = fit.engine.likelihood(at), torch.ones(1, 1, dtype=torch.bool)
    labels = likelihood.sample(torch.from_numpy(eta)[None, :, None], ways, given, generator=generator)[0].numpy()
    return case._replace(rows=case.rows.assign(**{fit.design.response_columns[0]: labels}))


def simulated(case: Case, copies: int) -> dict[str, Any]:
    """Return the mean coverage of copies of a set, its error, and how far single copies lie apart."""
    begin, found, refused = time.process_time(), [], 0
    for seed in range(copies):
        try:
            table = shares(copy(case, seed))
        except ValueError:  # as of labels that a term separates
            refused += 1
            continue
        found.append(table["exact"].groupby(["labelled", "kind"]).mean())
    each = pd.concat(found, axis=1)
    out: dict[str, Any] = {"copies": len(found), "refused": refused}
    for (labelled, kind), values in each.iterrows():
        low, high = values.quantile([0.025, 0.975]).round(4)
        cell = {"exact": round(values.mean(), 4), "half": round(1.96 * values.std() / np.sqrt(len(values)), 4)}
        out.setdefault(str(labelled), {})[kind] = cell | {"low": low, "high": high}
    return out | {"cpu_seconds": round(time.process_time() - begin, 1)}


def main() -> None:
    """Do every set that is not done, then their copies, and write after each."""
    torch.set_num_threads(1)
    result = read(NAME) | {"level": LEVEL, "labelled": LABELLED, "draws": DRAWS}
    result.setdefault("sets", {})
    for name, case in cases().items():
        if name in result["sets"] or (sys.argv[1:] and name not in sys.argv[1:]):
            continue
        result["sets"][name] = piece(case)
        write(NAME, result)
        print(name, json.dumps(result["sets"][name]), flush=True)
    for name, copies in COPIES.items():
        if "simulated" in result["sets"].get(name, {"simulated": None}):
            continue
        result["sets"][name]["simulated"] = simulated(cases()[name], copies)
        write(NAME, result)
        print(name, json.dumps(result["sets"][name]["simulated"]), flush=True)


if __name__ == "__main__":
    main()
