"""The exchangeable layer against its formula, written out."""

from __future__ import annotations

import torch
from builders import close, generator, perturb

from ebmeta.refine.exchangeable import ExchangeableLinear, Table, mean_weights


def test_the_exchangeable_layer_is_its_formula():
    layer = ExchangeableLinear(6, 2).double()
    perturb(layer, scale=0.5)
    cells, of_class, of_task = (
        torch.randn(*shape, generator=generator(0), dtype=torch.float64) for shape in ((1, 5, 4, 3), (1, 5, 2), (1, 1))
    )
    queries, ways = torch.tensor([[0.5, 0.5, 0.0, 0.0]]).double(), torch.tensor([[0.25] * 4 + [0.0]]).double()
    got, means = layer(Table(cells, of_class, of_task), queries, ways)
    wide = (of_class.unsqueeze(2).expand(-1, -1, 4, -1), of_task[:, None, None].expand(-1, 5, 4, -1))
    whole = torch.cat([cells, *wide], -1)
    close(layer(Table.of_cells(whole), queries, ways)[0], got)
    block = whole[0, :4, :2]
    close(means[0], block.mean((0, 1)))
    for i in range(2):
        for c in range(4):
            expected = (
                layer.cell(block[c, i])
                + layer.by_class(block[c].mean(0))
                + layer.by_query(block[:, i].mean(0))
                + layer.overall(block.mean((0, 1)))
            )
            close(got[0, c, i], expected)


def test_the_gradient_of_the_layer_is_that_of_its_formula():
    layer, source = ExchangeableLinear(6, 2).double(), generator(0)
    shapes = (2, 3, 4, 3), (2, 3, 2), (2, 1)
    table = [torch.randn(*shape, generator=source, dtype=torch.float64).requires_grad_() for shape in shapes]
    queries, ways = torch.ones(2, 4, dtype=torch.bool), torch.ones(2, 3, dtype=torch.bool)
    queries[1, 3:], ways[1, 2] = False, False
    weights = layer.weights(3, 2, 1)

    def outputs(*values):
        own = type(weights)(*values[3:])
        return layer(Table(*values[:3]), mean_weights(queries, torch.float64), mean_weights(ways, torch.float64), own)

    assert torch.autograd.gradcheck(outputs, (*table, *(w.detach().requires_grad_() for w in weights)))


def test_a_table_without_queries_has_no_cells():
    layer = ExchangeableLinear(6, 2)
    out, means = layer(
        Table(torch.zeros(1, 3, 0, 3), torch.ones(1, 3, 2), torch.ones(1, 1)),
        torch.zeros(1, 0),
        torch.full((1, 3), 1 / 3),
    )
    assert out.shape == (1, 3, 0, 2)
    close(means, torch.tensor([[0.0, 0.0, 0.0, 1.0, 1.0, 1.0]]), 1e-6)


def test_means_run_over_real_entries():
    mask = torch.tensor([[True, True, False], [False, True, False]])
    assert mean_weights(mask, torch.float64).tolist() == [[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]]
