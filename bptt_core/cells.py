"""One recurrent layer over a window: Elman (tanh, ReLU), GRU and LSTM, each forward directly above its backward.

This is the specification: textbook equations over arrays of any array module (`xp` is numpy or cupy) and any float
type, many learners at once, each with its own weights. Nothing here knows of stacks, losses, windows or sessions.

Legend: T time, B learners, D inputs, H hidden units, G gates, S carry arrays (h; for LSTM h and c).

    xs     [T, B, D]      inputs                    w.wx [B, D, G·H]   input weights
    hs     [T+1, B, H]    hs[0] is the carry's h    w.wh [B, H, G·H]   recurrent weights
    carry  [B, S, H]      h, or h and c             w.b  [B, G·H]      bias; w.bh [B, H] GRU's inner bias
    dhs    [T, B, H]      dL/dhs[t+1] from outside; [n, B, H] with n < T: of the last n steps, the others have none
    trail  [T, B, S, H]   trail[t] is dL by the carry that enters step t

Every backward returns (dcarry [B, S, H], dxs [T, B, D] or None): the gradients of the incoming carry and, if `inputs`
asks for them, of the inputs. It writes into nothing but arrays it made itself or was given: all of `grad`, the
gradients of the weights, and all of `trail`. Where one of them is None, it is not computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

Array = Any  # numpy.ndarray or cupy.ndarray


class CellWeights(NamedTuple):
    """Weights of one layer, or their gradient. `bh` is None for cells without an inner bias."""

    wx: Array
    wh: Array
    b: Array
    bh: Array | None = None


class Tape(NamedTuple):
    """What a forward leaves for its backward. `gates` are activations, not pre-activations."""

    xs: Array  # [T, B, D]
    hs: Array  # [T+1, B, H]
    cs: Array | None  # [T+1, B, H], LSTM
    gates: Array  # [T, B, G·H]
    inner: Array | None  # [T, B, H]: LSTM tanh(c), GRU hidden part of the candidate

    def head(self, steps: int) -> Tape:
        """The tape of the first `steps` steps (views)."""
        cs, inner = self.cs, self.inner
        return Tape(
            self.xs[:steps],
            self.hs[: steps + 1],
            None if cs is None else cs[: steps + 1],
            self.gates[:steps],
            None if inner is None else inner[:steps],
        )

    def carry(self, xp: Any, step: int) -> Array:
        """The carry entering step `step` (`step = T`: leaving the window), [B, S, H], a copy."""
        h = self.hs[step]
        carry = xp.empty((len(h), 1 if self.cs is None else 2, h.shape[1]), h.dtype)
        carry[:, 0] = h
        if self.cs is not None:
            carry[:, 1] = self.cs[step]
        return carry


def _empty(xp: Any, T: int, B: int, *rest: int, dtype: Any) -> Array:
    """[T, B, …] stored learner by learner, so that the strides within a learner, and with them the order in which its
    sums are taken, are the same in any company."""
    return xp.empty((B, T, *rest), dtype).swapaxes(0, 1)


def _projection(xp: Any, w: CellWeights, xs: Array) -> Array:
    """xs·wx + b for the whole window at once, [T, B, G·H]: the part of the gates that needs no recurrence."""
    T, B, _ = xs.shape
    gates = _empty(xp, T, B, w.wx.shape[2], dtype=xs.dtype)
    xp.matmul(xs.transpose(1, 0, 2), w.wx, out=gates.transpose(1, 0, 2))
    gates += w.b
    return gates


def _weight_gradients(xp: Any, tape: Tape, dz_input: Array, dz_hidden: Array, grad: CellWeights) -> None:
    """Writes `grad.wx`, `.b` and `.wh`, the per-step gradients summed over time as one product each, from those of the
    input part and of the hidden part of the gates' pre-activations, [T, B, G·H]."""
    by_learner = dz_input.transpose(1, 0, 2)
    xp.matmul(tape.xs.transpose(1, 2, 0), by_learner, out=grad.wx)
    grad.b[...] = by_learner.sum(axis=1)
    xp.matmul(tape.hs[:-1].transpose(1, 2, 0), dz_hidden.transpose(1, 0, 2), out=grad.wh)


def _input_gradient(xp: Any, w: CellWeights, dz: Array) -> Array:
    return xp.matmul(dz.transpose(1, 0, 2), w.wx.transpose(0, 2, 1)).transpose(1, 0, 2)


def sigmoid(xp: Any, z: Array) -> Array:
    """σ(z) = ½·tanh(½z) + ½, which cannot overflow."""
    return 0.5 * xp.tanh(0.5 * z) + 0.5


SATURATED: Final = math.sqrt(0.9)  # |tanh| at which its slope, 1 − tanh², is below a tenth of its largest


def _saturated(tanhs: Array) -> Array:
    """How many of `tanhs` [T, B, n] are saturated, [B]."""
    return (abs(tanhs) >= SATURATED).sum(axis=(0, 2))


def _tanhs(gates: Array, H: int) -> Array:
    """σ gates [T, B, G·H] as the tanh they are made of, 2a − 1; gate 2, GRU's n and LSTM's g, is one already."""
    tanhs = 2 * gates - 1
    tanhs[:, :, 2 * H : 3 * H] = gates[:, :, 2 * H : 3 * H]
    return tanhs


# ---- Elman (1990): h' = φ(x·wx + b + h·wh), φ = tanh or max(0, ·) ----------------------------------------------------


def _elman_forward(xp: Any, w: CellWeights, xs: Array, carry: Array, activate: Callable[[Array], None]) -> Tape:
    """`activate` applies φ in place."""
    T, B, _ = xs.shape
    gates = _projection(xp, w, xs)
    hs = _empty(xp, T + 1, B, w.wh.shape[1], dtype=xs.dtype)
    hs[0] = carry[:, 0]
    for t in range(T):
        z = gates[t]
        z += xp.matmul(hs[t][:, None, :], w.wh)[:, 0]
        activate(z)
        hs[t + 1] = z
    return Tape(xs, hs, None, gates, None)


def _elman_backward(
    xp: Any,
    w: CellWeights,
    tape: Tape,
    slope: Array,
    dhs: Array,
    grad: CellWeights | None,
    inputs: bool,
    trail: Array | None,
) -> tuple[Array, Array | None]:
    """`slope` [T, B, H] is φ′."""
    T = len(slope)
    first = T - len(dhs)
    dz = _empty(xp, *tape.gates.shape, dtype=dhs.dtype)
    transposed = w.wh.transpose(0, 2, 1)
    dh = xp.zeros_like(tape.hs[0])
    for t in range(T - 1, -1, -1):
        if t >= first:
            dh = dh + dhs[t - first]
        xp.multiply(dh, slope[t], out=dz[t])
        dh = xp.matmul(dz[t][:, None, :], transposed)[:, 0]
        if trail is not None:
            trail[t, :, 0] = dh
    if grad is not None:
        _weight_gradients(xp, tape, dz, dz, grad)
    return dh[:, None, :], _input_gradient(xp, w, dz) if inputs else None


def tanh_forward(xp: Any, w: CellWeights, xs: Array, carry: Array) -> Tape:
    return _elman_forward(xp, w, xs, carry, lambda z: xp.tanh(z, out=z))


def tanh_backward(
    xp: Any,
    w: CellWeights,
    tape: Tape,
    dhs: Array,
    grad: CellWeights | None,
    inputs: bool = False,
    trail: Array | None = None,
) -> tuple[Array, Array | None]:
    return _elman_backward(xp, w, tape, 1 - tape.gates * tape.gates, dhs, grad, inputs, trail)


def tanh_saturated(xp: Any, tape: Tape) -> Array:
    """Share of saturated units, [B]."""
    T, _, H = tape.gates.shape
    return _saturated(tape.gates) / (T * H)


def relu_forward(xp: Any, w: CellWeights, xs: Array, carry: Array) -> Tape:
    return _elman_forward(xp, w, xs, carry, lambda z: xp.maximum(z, 0, out=z))


def relu_backward(
    xp: Any,
    w: CellWeights,
    tape: Tape,
    dhs: Array,
    grad: CellWeights | None,
    inputs: bool = False,
    trail: Array | None = None,
) -> tuple[Array, Array | None]:
    return _elman_backward(xp, w, tape, (tape.gates > 0).astype(dhs.dtype), dhs, grad, inputs, trail)


def relu_saturated(xp: Any, tape: Tape) -> Array:
    """Share of the units that are off, [B]."""
    T, _, H = tape.gates.shape
    return (tape.gates == 0).sum(axis=(0, 2)) / (T * H)


# ---- GRU (Cho et al. 2014), reset gate after the recurrent product as in PyTorch; gates r, z, n ----------------------
#   r = σ(x·wr + h·ur + br)   z = σ(x·wz + h·uz + bz)   n = tanh(x·wn + bn + r∘(h·un + bh))   h' = (1 − z)∘n + z∘h


def gru_forward(xp: Any, w: CellWeights, xs: Array, carry: Array) -> Tape:
    T, B, _ = xs.shape
    H = w.wh.shape[1]
    gates = _projection(xp, w, xs)
    hs = _empty(xp, T + 1, B, H, dtype=xs.dtype)
    inner = _empty(xp, T, B, H, dtype=xs.dtype)
    hs[0] = carry[:, 0]
    for t in range(T):
        recurrent = xp.matmul(hs[t][:, None, :], w.wh)[:, 0]
        rz, n = gates[t, :, : 2 * H], gates[t, :, 2 * H :]
        rz[...] = sigmoid(xp, rz + recurrent[:, : 2 * H])
        r, z = rz[:, :H], rz[:, H:]
        xp.add(recurrent[:, 2 * H :], w.bh, out=inner[t])
        n += r * inner[t]
        xp.tanh(n, out=n)
        hs[t + 1] = n + z * (hs[t] - n)
    return Tape(xs, hs, None, gates, inner)


def gru_backward(
    xp: Any,
    w: CellWeights,
    tape: Tape,
    dhs: Array,
    grad: CellWeights | None,
    inputs: bool = False,
    trail: Array | None = None,
) -> tuple[Array, Array | None]:
    assert tape.inner is not None
    T, _, H = tape.inner.shape
    first = T - len(dhs)
    r, z, n = tape.gates[..., :H], tape.gates[..., H : 2 * H], tape.gates[..., 2 * H :]
    dn_slope = (1 - z) * (1 - n * n)
    dz_slope = (tape.hs[:-1] - n) * z * (1 - z)
    dr_slope = tape.inner * r * (1 - r)
    # Gradients of the input part of each gate, and of its hidden part: they differ for n, which r multiplies.
    dx, dh_part = (_empty(xp, *tape.gates.shape, dtype=dhs.dtype) for _ in range(2))
    transposed = w.wh.transpose(0, 2, 1)
    dh = xp.zeros_like(tape.hs[0])
    for t in range(T - 1, -1, -1):
        if t >= first:
            dh = dh + dhs[t - first]
        dn = dh * dn_slope[t]
        xp.multiply(dn, dr_slope[t], out=dx[t, :, :H])
        xp.multiply(dh, dz_slope[t], out=dx[t, :, H : 2 * H])
        dx[t, :, 2 * H :] = dn
        dh_part[t, :, : 2 * H] = dx[t, :, : 2 * H]
        xp.multiply(dn, r[t], out=dh_part[t, :, 2 * H :])
        dh = dh * z[t] + xp.matmul(dh_part[t][:, None, :], transposed)[:, 0]
        if trail is not None:
            trail[t, :, 0] = dh
    if grad is not None:
        assert grad.bh is not None
        _weight_gradients(xp, tape, dx, dh_part, grad)
        grad.bh[...] = dh_part.transpose(1, 0, 2)[:, :, 2 * H :].sum(axis=1)
    return dh[:, None, :], _input_gradient(xp, w, dx) if inputs else None


def gru_saturated(xp: Any, tape: Tape) -> Array:
    """Share of saturated units among r, z and n, [B]."""
    T, _, H = tape.hs[1:].shape
    return _saturated(_tanhs(tape.gates, H)) / (T * 3 * H)


# ---- LSTM (Hochreiter & Schmidhuber 1997 with Gers' forget gate); gates i, f, g, o as in PyTorch ---------------------
#   i, f, o = σ(…)   g = tanh(…)   c' = f∘c + i∘g   h' = o∘tanh(c')


def lstm_forward(xp: Any, w: CellWeights, xs: Array, carry: Array) -> Tape:
    T, B, _ = xs.shape
    H = w.wh.shape[1]
    gates = _projection(xp, w, xs)
    hs, cs = (_empty(xp, T + 1, B, H, dtype=xs.dtype) for _ in range(2))
    tanh_c = _empty(xp, T, B, H, dtype=xs.dtype)
    hs[0], cs[0] = carry[:, 0], carry[:, 1]
    # One tanh serves all four gates, as σ(z) = ½·tanh(½z) + ½; the inner ½ goes into the weights. Scale and shift are
    # the same for every learner: they are repeated because arrays of equal shapes are multiplied much faster.
    scale, shift = xp.full((B, 4 * H), 0.5, xs.dtype), xp.full((B, 4 * H), 0.5, xs.dtype)
    scale[:, 2 * H : 3 * H], shift[:, 2 * H : 3 * H] = 1, 0
    gates *= scale
    wh = w.wh * scale[:, None, :]
    recurrent = xp.empty((B, 1, 4 * H), xs.dtype)
    recurrent_row, c = recurrent[:, 0], cs[0]
    columns = (gates[:, :, k * H : (k + 1) * H] for k in range(4))
    matmul, multiply, tanh = xp.matmul, xp.multiply, xp.tanh  # looked up once, not at every step
    for a, i, f, g, o, h, h_next, c_next, tanh_next in zip(
        gates, *columns, hs[:-1, :, None, :], hs[1:], cs[1:], tanh_c, strict=True
    ):
        matmul(h, wh, out=recurrent)
        a += recurrent_row
        tanh(a, out=a)
        a *= scale
        a += shift
        multiply(f, c, out=c_next)
        c_next += i * g
        tanh(c_next, out=tanh_next)
        multiply(o, tanh_next, out=h_next)
        c = c_next
    return Tape(xs, hs, cs, gates, tanh_c)


def lstm_backward(
    xp: Any,
    w: CellWeights,
    tape: Tape,
    dhs: Array,
    grad: CellWeights | None,
    inputs: bool = False,
    trail: Array | None = None,
) -> tuple[Array, Array | None]:
    assert tape.cs is not None and tape.inner is not None
    T, B, H = tape.inner.shape
    gates, tanh_c = tape.gates.reshape(T, B, 4, H), tape.inner
    i, f, g, o = (gates[:, :, k] for k in range(4))
    # Slopes of c' by the pre-activations of i, f, g, and of h' by that of o and by c', for the whole window.
    dc_slope = _empty(xp, T, B, 3, H, dtype=dhs.dtype)
    rest = 1 - gates
    xp.multiply(g * i, rest[:, :, 0], out=dc_slope[:, :, 0])
    xp.multiply(tape.cs[:-1] * f, rest[:, :, 1], out=dc_slope[:, :, 1])
    xp.multiply(i, 1 - g * g, out=dc_slope[:, :, 2])
    do_slope = tanh_c * o * rest[:, :, 3]
    dh_to_dc = o * (1 - tanh_c * tanh_c)
    dz = _empty(xp, T, B, 4, H, dtype=dhs.dtype)
    flat = dz.reshape(T, B, 4 * H)
    transposed = w.wh.transpose(0, 2, 1)
    dh3, dc = xp.zeros((B, 1, H), dhs.dtype), xp.zeros((B, H), dhs.dtype)
    dh, dc3 = dh3[:, 0], dc[:, None, :]
    outside = [None] * (T - len(dhs)) + list(dhs)
    entered = [None] * T if trail is None else trail
    steps = (outside, dh_to_dc, dc_slope, do_slope, f, dz[:, :, :3], dz[:, :, 3], flat[:, :, None, :], entered)
    matmul, multiply = xp.matmul, xp.multiply
    newest_first = zip(*(a[::-1] for a in steps), strict=True)
    for dh_here, to_dc, ifg_slope, o_slope, forget, dz_ifg, dz_o, dz_row, entering in newest_first:
        if dh_here is not None:
            dh += dh_here
        dc += dh * to_dc
        multiply(dc3, ifg_slope, out=dz_ifg)
        multiply(dh, o_slope, out=dz_o)
        dc *= forget
        matmul(dz_row, transposed, out=dh3)
        if entering is not None:
            entering[:, 0], entering[:, 1] = dh, dc
    if grad is not None:
        _weight_gradients(xp, tape, flat, flat, grad)
    dcarry = xp.empty((B, 2, H), dhs.dtype)
    dcarry[:, 0], dcarry[:, 1] = dh, dc
    return dcarry, _input_gradient(xp, w, flat) if inputs else None


def lstm_saturated(xp: Any, tape: Tape) -> Array:
    """Share of saturated units among i, f, g, o and tanh(c'), [B]."""
    T, _, H = tape.hs[1:].shape
    return (_saturated(_tanhs(tape.gates, H)) + _saturated(tape.inner)) / (T * 5 * H)


@dataclass(frozen=True, slots=True)
class Cell:
    """What the rest of the core needs to know of a cell."""

    gates: int  # G
    carries: int  # S
    inner_bias: bool
    forward: Callable[[Any, CellWeights, Array, Array], Tape]
    backward: Callable[..., tuple[Array, Array | None]]
    saturated: Callable[[Any, Tape], Array]  # share of units that let little gradient through, [B]


CELLS: Final = {
    "tanh": Cell(1, 1, False, tanh_forward, tanh_backward, tanh_saturated),
    "relu": Cell(1, 1, False, relu_forward, relu_backward, relu_saturated),
    "gru": Cell(3, 1, True, gru_forward, gru_backward, gru_saturated),
    "lstm": Cell(4, 2, False, lstm_forward, lstm_backward, lstm_saturated),
}
