"""One recurrent layer over a window: tanh, GRU and LSTM, each forward directly above its backward.

This is the specification: textbook equations over arrays of any array module (`xp` is numpy or cupy) and any float
type, many learners at once, each with its own weights. Nothing here knows of losses, windows or sessions.

Legend: T time, B learners, D inputs, H hidden units, G gates, S carry arrays (h; for LSTM h and c).

    xs     [T, B, D]      inputs                    w.wx [B, D, G·H]   input weights
    hs     [T+1, B, H]    hs[0] is the carry's h    w.wh [B, H, G·H]   recurrent weights
    carry  [B, S, H]      h, or h and c             w.b  [B, G·H]      bias; w.bh [B, H] GRU's inner bias
    dhs    [T, B, H]      dL/dhs[t+1] from outside

Every backward returns the gradients of all weights, of the incoming carry and (if asked for) of the inputs, and writes
into nothing but arrays it made itself or was given as `grad`.
"""

from __future__ import annotations

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


def _weight_gradients(xp: Any, xs: Array, hs: Array, dz: Array, grad: CellWeights) -> None:
    """Writes `grad.wx`, `.wh` and `.b`: the per-step gradients summed over time as one product each."""
    by_learner = dz.transpose(1, 0, 2)
    xp.matmul(xs.transpose(1, 2, 0), by_learner, out=grad.wx)
    xp.matmul(hs[:-1].transpose(1, 2, 0), by_learner, out=grad.wh)
    grad.b[...] = by_learner.sum(axis=1)


def _input_gradient(xp: Any, w: CellWeights, dz: Array) -> Array:
    return xp.matmul(dz.transpose(1, 0, 2), w.wx.transpose(0, 2, 1)).transpose(1, 0, 2)


def _sigmoid(xp: Any, z: Array) -> Array:
    """σ(z) = ½·tanh(½z) + ½, which cannot overflow."""
    return 0.5 * xp.tanh(0.5 * z) + 0.5


# ---- Elman (1990): h' = tanh(x·wx + b + h·wh) ------------------------------------------------------------------------


def tanh_forward(xp: Any, w: CellWeights, xs: Array, carry: Array) -> Tape:
    T, B, _ = xs.shape
    gates = _projection(xp, w, xs)
    hs = _empty(xp, T + 1, B, w.wh.shape[1], dtype=xs.dtype)
    hs[0] = carry[:, 0]
    for t in range(T):
        z = gates[t]
        z += xp.matmul(hs[t][:, None, :], w.wh)[:, 0]
        xp.tanh(z, out=z)
        hs[t + 1] = z
    return Tape(xs, hs, None, gates, None)


def tanh_backward(
    xp: Any, w: CellWeights, tape: Tape, dhs: Array, grad: CellWeights, inputs: bool = False
) -> tuple[Array, Array | None]:
    """Writes the weight gradients into `grad`; returns (dcarry [B, 1, H], dxs [T, B, D] or None)."""
    slope = 1 - tape.gates * tape.gates
    dz = _empty(xp, *tape.gates.shape, dtype=dhs.dtype)
    transposed = w.wh.transpose(0, 2, 1)
    dh = xp.zeros_like(tape.hs[0])
    for t in range(len(dhs) - 1, -1, -1):
        dh = dh + dhs[t]
        xp.multiply(dh, slope[t], out=dz[t])
        dh = xp.matmul(dz[t][:, None, :], transposed)[:, 0]
    _weight_gradients(xp, tape.xs, tape.hs, dz, grad)
    return dh[:, None, :], _input_gradient(xp, w, dz) if inputs else None


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
        rz[...] = _sigmoid(xp, rz + recurrent[:, : 2 * H])
        r, z = rz[:, :H], rz[:, H:]
        xp.add(recurrent[:, 2 * H :], w.bh, out=inner[t])
        n += r * inner[t]
        xp.tanh(n, out=n)
        hs[t + 1] = n + z * (hs[t] - n)
    return Tape(xs, hs, None, gates, inner)


def gru_backward(
    xp: Any, w: CellWeights, tape: Tape, dhs: Array, grad: CellWeights, inputs: bool = False
) -> tuple[Array, Array | None]:
    """Writes the weight gradients into `grad`; returns (dcarry [B, 1, H], dxs [T, B, D] or None)."""
    assert grad.bh is not None and tape.inner is not None
    H = w.wh.shape[1]
    r, z, n = tape.gates[..., :H], tape.gates[..., H : 2 * H], tape.gates[..., 2 * H :]
    dn_slope = (1 - z) * (1 - n * n)
    dz_slope = (tape.hs[:-1] - n) * z * (1 - z)
    dr_slope = tape.inner * r * (1 - r)
    # Gradients of the input part of each gate, and of its hidden part: they differ for n, which r multiplies.
    dx, dh_part = (_empty(xp, *tape.gates.shape, dtype=dhs.dtype) for _ in range(2))
    transposed = w.wh.transpose(0, 2, 1)
    dh = xp.zeros_like(tape.hs[0])
    for t in range(len(dhs) - 1, -1, -1):
        dh = dh + dhs[t]
        dn = dh * dn_slope[t]
        xp.multiply(dn, dr_slope[t], out=dx[t, :, :H])
        xp.multiply(dh, dz_slope[t], out=dx[t, :, H : 2 * H])
        dx[t, :, 2 * H :] = dn
        dh_part[t, :, : 2 * H] = dx[t, :, : 2 * H]
        xp.multiply(dn, r[t], out=dh_part[t, :, 2 * H :])
        dh = dh * z[t] + xp.matmul(dh_part[t][:, None, :], transposed)[:, 0]
    _weight_gradients(xp, tape.xs, tape.hs, dx, grad)
    xp.matmul(tape.hs[:-1].transpose(1, 2, 0), dh_part.transpose(1, 0, 2), out=grad.wh)
    grad.bh[...] = dh_part.transpose(1, 0, 2)[:, :, 2 * H :].sum(axis=1)
    return dh[:, None, :], _input_gradient(xp, w, dx) if inputs else None


# ---- LSTM (Hochreiter & Schmidhuber 1997 with Gers' forget gate); gates i, f, g, o as in PyTorch ---------------------
#   i, f, o = σ(…)   g = tanh(…)   c' = f∘c + i∘g   h' = o∘tanh(c')


def lstm_forward(xp: Any, w: CellWeights, xs: Array, carry: Array) -> Tape:
    T, B, _ = xs.shape
    H = w.wh.shape[1]
    gates = _projection(xp, w, xs)
    hs, cs = (_empty(xp, T + 1, B, H, dtype=xs.dtype) for _ in range(2))
    tanh_c = _empty(xp, T, B, H, dtype=xs.dtype)
    hs[0], cs[0] = carry[:, 0], carry[:, 1]
    # One tanh serves all four gates, as σ(z) = ½·tanh(½z) + ½; the inner ½ goes into the weights.
    scale, shift = xp.full(4 * H, 0.5, xs.dtype), xp.full(4 * H, 0.5, xs.dtype)
    scale[2 * H : 3 * H], shift[2 * H : 3 * H] = 1, 0
    gates *= scale
    wh = w.wh * scale
    recurrent = xp.empty((B, 1, 4 * H), xs.dtype)
    recurrent_row = recurrent[:, 0]
    columns = (gates[:, :, k * H : (k + 1) * H] for k in range(4))
    steps = zip(gates, *columns, hs[:, :, None, :], hs[1:], cs, cs[1:], tanh_c, strict=False)
    for a, i, f, g, o, h_row, h_next, c, c_next, tanh in steps:
        xp.matmul(h_row, wh, out=recurrent)
        a += recurrent_row
        xp.tanh(a, out=a)
        a *= scale
        a += shift
        xp.multiply(f, c, out=c_next)
        c_next += i * g
        xp.tanh(c_next, out=tanh)
        xp.multiply(o, tanh, out=h_next)
    return Tape(xs, hs, cs, gates, tanh_c)


def lstm_backward(
    xp: Any, w: CellWeights, tape: Tape, dhs: Array, grad: CellWeights, inputs: bool = False
) -> tuple[Array, Array | None]:
    """Writes the weight gradients into `grad`; returns (dcarry [B, 2, H], dxs [T, B, D] or None)."""
    assert tape.cs is not None and tape.inner is not None
    T, B, H = dhs.shape
    gates, tanh_c = tape.gates.reshape(T, B, 4, H), tape.inner
    i, f, g, o = (gates[:, :, k] for k in range(4))
    # Slopes of c' by the pre-activations of i, f, g, and of h' by that of o and by c', for the whole window.
    dc_slope = _empty(xp, T, B, 3, H, dtype=dhs.dtype)
    dc_slope[:, :, 0] = g * i * (1 - i)
    dc_slope[:, :, 1] = tape.cs[:-1] * f * (1 - f)
    dc_slope[:, :, 2] = i * (1 - g * g)
    do_slope = tanh_c * o * (1 - o)
    dh_to_dc = o * (1 - tanh_c * tanh_c)
    dz = _empty(xp, T, B, 4, H, dtype=dhs.dtype)
    flat = dz.reshape(T, B, 4 * H)
    transposed = w.wh.transpose(0, 2, 1)
    dh3, dc = xp.zeros((B, 1, H), dhs.dtype), xp.zeros((B, H), dhs.dtype)
    dh, dc3 = dh3[:, 0], dc[:, None, :]
    steps = (dhs, dh_to_dc, dc_slope, do_slope, f, dz[:, :, :3], dz[:, :, 3], flat[:, :, None, :])
    for dh_loss, to_dc, ifg_slope, o_slope, forget, dz_ifg, dz_o, dz_row in zip(*(a[::-1] for a in steps), strict=True):
        dh += dh_loss
        dc += dh * to_dc
        xp.multiply(dc3, ifg_slope, out=dz_ifg)
        xp.multiply(dh, o_slope, out=dz_o)
        dc *= forget
        xp.matmul(dz_row, transposed, out=dh3)
    _weight_gradients(xp, tape.xs, tape.hs, flat, grad)
    return xp.stack([dh, dc], axis=1), _input_gradient(xp, w, flat) if inputs else None


@dataclass(frozen=True, slots=True)
class Cell:
    """What the rest of the core needs to know of a cell."""

    gates: int  # G
    carries: int  # S
    inner_bias: bool
    forward: Callable[..., Tape]
    backward: Callable[..., tuple[Array, Array | None]]


CELLS: Final = {
    "tanh": Cell(1, 1, False, tanh_forward, tanh_backward),
    "gru": Cell(3, 1, True, gru_forward, gru_backward),
    "lstm": Cell(4, 2, False, lstm_forward, lstm_backward),
}
