"""The flat row of a learner's parameters: every number belongs to one weight, in the order that checkpoints keep."""

from __future__ import annotations

import numpy as np
import pytest

from bptt_core import CELLS
from bptt_core.parameters import ParameterLayout

D, H, K, B = 3, 5, 2, 4


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("cell", CELLS)
def test_the_weights_share_out_the_row_in_canonical_order(cell: str, layers: int) -> None:
    layout = ParameterLayout(cell, D, H, layers, K)
    gates = {"gru": 3, "lstm": 4}.get(cell, 1)
    expected: dict[str, tuple[int, ...]] = {}
    for l in range(layers):
        expected |= {f"wx{l}": (H if l else D, gates * H), f"wh{l}": (H, gates * H), f"b{l}": (gates * H,)}
        expected |= {f"bh{l}": (H,)} if cell == "gru" else {}
    expected |= {"wo": (H, K), "bo": (K,)}
    assert list(layout.shapes().items()) == list(expected.items())
    rows = np.arange(B * layout.size, dtype=float).reshape(B, -1)
    split = layout.split(rows)
    views = [w for layer in split.layers for w in layer if w is not None] + [split.wo, split.bo]
    assert [view.shape[1:] for view in views] == list(expected.values())
    np.testing.assert_array_equal(np.concatenate([view.reshape(B, -1) for view in views], axis=1), rows)
    for ours, theirs in zip(layout.readout(rows), (split.wo, split.bo), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for view in views:
        view[...] = -1
    assert (rows == -1).all(), "the weights are views of the row"
