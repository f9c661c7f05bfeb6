"""Directions of weights that rows of a task can see."""

import torch
from builders import generator

from ebmeta.diagnostics.span import frame, project
from ebmeta.parts.gaussian import DiagonalGaussian


def test_directions_of_rows():
    g = generator(0)
    x = torch.randn(2, 3, 5, generator=g, dtype=torch.float64)
    x[1, 2] = 0  # padding
    others = torch.randn(2, 1, 5, generator=g, dtype=torch.float64)
    of = frame(x, others)
    assert (of.num_labelled, len(of)) == (3, 4)
    assert of.real.sum(1).tolist() == [4, 3]
    for rows in (x, others):
        torch.testing.assert_close(rows @ of.basis @ of.basis.mT, rows)
    torch.testing.assert_close(of.basis.mT @ of.basis, torch.diag_embed(of.real.double()))
    q = DiagonalGaussian(torch.randn(2, 2, 5, generator=g).double(), torch.rand(2, 2, 5, generator=g).double() + 0.1)
    of_u = project(q, of)
    torch.testing.assert_close(of_u.kl(of_u), torch.zeros(2).double())
    loc, var = q.marginal(x)
    rows = (x @ of.basis).unsqueeze(1) @ of_u.scale_tril
    torch.testing.assert_close((x @ of.basis @ of_u.loc.mT), loc)
    torch.testing.assert_close(rows.square().sum(-1).mT, var)
