"""What PyTorch needs for the same updates: three ways to train many small LSTMs, each with its own weights.

One after the other with nn.LSTM and fused Adam; all at once with stacked weights, `baddbmm` and autograd; all at once
with the backward written out. Forward over the window, squared error of the newest step, backward, clip by the norm of
each learner, Adam.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

RATE, BETAS, EPSILON, CLIP = 1e-3, (0.9, 0.999), 1e-8, 1.0
STACKED = {16: 4096, 32: 2048, 64: 1024, 96: 512, 128: 512}  # learners that are stacked


def speeds(torch: Any, device: str, hidden: int, inputs: int, window: int, seconds: float) -> dict[str, float]:
    """Updates per second by name."""
    count = STACKED[hidden]
    return {
        "nn.LSTM": rate(torch, device, one_by_one(torch, device, hidden, inputs, window), seconds),
        "autograd": count * rate(torch, device, stacked(torch, device, count, hidden, inputs, window, False), seconds),
        "manual": count * rate(torch, device, stacked(torch, device, count, hidden, inputs, window, True), seconds),
    }


def rate(torch: Any, device: str, call: Callable[[], None], seconds: float) -> float:
    """Calls per second to completed work, three left out."""
    for _ in range(3):
        call()
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    synchronize()
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        call()
        synchronize()
        count += 1
    return count / (time.perf_counter() - begin)


def one_by_one(torch: Any, device: str, hidden: int, inputs: int, window: int) -> Callable[[], None]:
    lstm, readout = torch.nn.LSTM(inputs, hidden).to(device), torch.nn.Linear(hidden, 1).to(device)
    weights = [*lstm.parameters(), *readout.parameters()]
    adam = torch.optim.Adam(weights, RATE, BETAS, EPSILON, fused=device == "cuda")
    xs, target = torch.randn(window, 1, inputs, device=device), torch.randn(1, device=device)

    def update() -> None:
        adam.zero_grad(set_to_none=True)
        hs, _ = lstm(xs)
        ((readout(hs[-1])[:, 0] - target) ** 2).mean().backward()
        torch.nn.utils.clip_grad_norm_(weights, CLIP)
        adam.step()

    return update


def stacked(
    torch: Any, device: str, count: int, hidden: int, inputs: int, window: int, manual: bool
) -> Callable[[], None]:
    """All learners at once: weights [count, …]."""
    sizes = {
        "wx": (inputs, 4 * hidden),
        "wh": (hidden, 4 * hidden),
        "b": (1, 4 * hidden),
        "wo": (hidden, 1),
        "bo": (1, 1),
    }
    w = {name: 0.1 * torch.randn(count, *size, device=device) for name, size in sizes.items()}
    moments = {name: (torch.zeros_like(v), torch.zeros_like(v)) for name, v in w.items()}
    xs, target = torch.randn(count, window, inputs, device=device), torch.randn(count, 1, 1, device=device)
    steps = 0

    def update() -> None:
        nonlocal steps
        steps += 1
        grads = manual_gradient(torch, w, xs, target) if manual else autograd_gradient(torch, w, xs, target)
        with torch.no_grad():
            clipped_adam(w, grads, moments, steps)

    return update


def clipped_adam(w: dict[str, Any], grads: dict[str, Any], moments: dict[str, Any], steps: int) -> None:
    """In place on weights and moments; the norm is each learner's own."""
    norm = sum(g.square().sum((1, 2), keepdim=True) for g in grads.values()).sqrt()
    scale = (CLIP / (norm + 1e-6)).clamp(max=1)
    for name, g in grads.items():
        m, v = moments[name]
        m.lerp_(g * scale, 1 - BETAS[0])
        v.mul_(BETAS[1]).add_((g * scale).square(), alpha=1 - BETAS[1])
        size = RATE / (1 - BETAS[0] ** steps)
        w[name].addcdiv_(m, (v / (1 - BETAS[1] ** steps)).sqrt().add_(EPSILON), value=-size)


def forward(torch: Any, w: dict[str, Any], xs: Any) -> tuple[list[Any], list[Any], list[Any]]:
    """Hidden states, cells and gates of every step."""
    count, window, hidden = len(xs), xs.shape[1], w["wh"].shape[1]
    projected = torch.baddbmm(w["b"], xs, w["wx"])
    hs, cs = ([torch.zeros(count, 1, hidden, device=xs.device)] for _ in range(2))
    gates = []
    for t in range(window):
        i, f, g, o = torch.baddbmm(projected[:, t : t + 1], hs[-1], w["wh"]).chunk(4, 2)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        gates.append((i, f, g, o))
        cs.append(f * cs[-1] + i * g)
        hs.append(o * cs[-1].tanh())
    return hs, cs, gates


def autograd_gradient(torch: Any, w: dict[str, Any], xs: Any, target: Any) -> dict[str, Any]:
    leaves = {name: v.requires_grad_() for name, v in w.items()}
    hs, _, _ = forward(torch, leaves, xs)
    error = torch.baddbmm(leaves["bo"], hs[-1], leaves["wo"]) - target
    grads = torch.autograd.grad(error.square().sum(), list(leaves.values()))
    for v in w.values():
        v.requires_grad_(False)
    return dict(zip(leaves, grads, strict=True))


def manual_gradient(torch: Any, w: dict[str, Any], xs: Any, target: Any) -> dict[str, Any]:
    with torch.no_grad():
        hs, cs, gates = forward(torch, w, xs)
        dy = 2 * (torch.baddbmm(w["bo"], hs[-1], w["wo"]) - target)
        dh, dc, dz = dy @ w["wo"].transpose(1, 2), torch.zeros_like(cs[0]), []
        transposed = w["wh"].transpose(1, 2)
        for t in range(xs.shape[1] - 1, -1, -1):
            (i, f, g, o), tanh_c = gates[t], cs[t + 1].tanh()
            dc = dc + dh * o * (1 - tanh_c * tanh_c)
            parts = (dc * g * i * (1 - i), dc * cs[t] * f * (1 - f), dc * i * (1 - g * g), dh * tanh_c * o * (1 - o))
            dz.append(torch.cat(parts, 2))
            dc, dh = dc * f, torch.bmm(dz[-1], transposed)
        deltas = torch.cat(dz[::-1], 1)
        entered = torch.cat(hs[:-1], 1)
        grads = {"wx": xs.transpose(1, 2) @ deltas, "wh": entered.transpose(1, 2) @ deltas}
        return grads | {"b": deltas.sum(1, keepdim=True), "wo": hs[-1].transpose(1, 2) @ dy, "bo": dy}
