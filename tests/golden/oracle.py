"""PyTorch's answers to the cases: nn.RNN, nn.GRU, nn.LSTM and nn.Linear, its losses, autograd, optimisers and clips.

One module per learner, float64, written from the description of the method and not from bptt_core, of which nothing is
imported. Where PyTorch has no function (Student's t, pinball, schedules, the running quantile) the formula stands here.
Legend as in cases.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

torch.set_num_threads(1)  # the reductions of small arrays; and a core is shared

Arrays = dict[str, np.ndarray]
F64 = torch.float64


class Network(nn.Module):
    """A recurrent module and its readout, filled from one learner's row of parameters in canonical order.

    bptt_core has one bias per gate (and one more for GRU's candidate) where PyTorch has two: the others are held at 0.
    """

    def __init__(self, case: Any, row: np.ndarray) -> None:
        super().__init__()
        sizes: dict[str, Any] = {"num_layers": case.layers, "dtype": F64}
        if case.cell in ("tanh", "relu"):
            self.rnn: nn.RNNBase = nn.RNN(case.inputs, case.hidden, nonlinearity=case.cell, **sizes)
        else:
            kind = {"gru": nn.GRU, "lstm": nn.LSTM}[case.cell]
            self.rnn = kind(case.inputs, case.hidden, **sizes)
        self.readout = nn.Linear(case.hidden, case.pairs * case.per_pair, dtype=F64)
        self.case = case
        self._fill({name: torch.tensor(part[0]) for name, part in case.split(row[None]).items()})

    def _fill(self, parts: dict[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for layer in range(self.case.layers):
                bias_hh = getattr(self.rnn, f"bias_hh_l{layer}")
                bias_hh.zero_()
                for target, source in self._places(layer):
                    target.copy_(_turned(parts[source]))
                if self.case.cell == "gru":
                    bias_hh[2 * self.case.hidden :] = parts[f"bh{layer}"]
                used = torch.zeros_like(bias_hh)
                used[2 * self.case.hidden :] = 1  # GRU's candidate; empty for one gate
                bias_hh.register_hook(used.mul if self.case.cell == "gru" else torch.zeros_like)
            self.readout.weight.copy_(parts["wo"].T)
            self.readout.bias.copy_(parts["bo"])

    def _places(self, layer: int) -> list[tuple[torch.Tensor, str]]:
        names = {"weight_ih": "wx", "weight_hh": "wh", "bias_ih": "b"}
        return [(getattr(self.rnn, f"{ours}_l{layer}"), f"{name}{layer}") for ours, name in names.items()]

    def row(self, of: Callable[[torch.Tensor], Any] = lambda tensor: tensor) -> np.ndarray:
        """Parameters, or what `of` makes of each, as a row [P] in canonical order."""
        parts = []
        for layer in range(self.case.layers):
            parts += [_turned(of(tensor)) for tensor, _ in self._places(layer)]
            if self.case.cell == "gru":
                parts.append(of(getattr(self.rnn, f"bias_hh_l{layer}"))[2 * self.case.hidden :])
        parts += [_turned(of(self.readout.weight)), of(self.readout.bias)]
        return torch.cat([part.detach().reshape(-1) for part in parts]).numpy().copy()

    def forward(self, xs: torch.Tensor, carry: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """xs [T, D] and the incoming carry [L·S, H] → (top hidden states [T, H], outgoing carry)."""
        if self.case.cell != "lstm":
            return self.rnn(xs, carry)
        hs, (h, c) = self.rnn(xs, (carry[0::2].contiguous(), carry[1::2].contiguous()))
        return hs, torch.stack([h, c], dim=1).reshape(carry.shape)


def _turned(weight: torch.Tensor) -> torch.Tensor:
    """A matrix transposed, a bias as it is."""
    return weight.mT if weight.ndim > 1 else weight


# ---- Losses ----------------------------------------------------------------------------------------------------------


def _student_t(y: torch.Tensor, target: torch.Tensor, dof: float) -> torch.Tensor:
    return (0.5 * (dof + 1) * torch.log(1 + (target - y) ** 2 / dof)).mean()


def _pinball(ys: torch.Tensor, targets: torch.Tensor, levels: tuple[float, ...]) -> torch.Tensor:
    d = targets[:, None] - ys
    tau = torch.tensor(levels, dtype=F64)
    return torch.maximum(tau * d, (tau - 1) * d).mean()


def _gaussian(ys: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return functional.gaussian_nll_loss(ys[:, 0], targets, ys[:, 1].clamp(-12, 12).exp(), eps=1e-9)


def mean_loss(case: Any, ys: torch.Tensor, targets: torch.Tensor, parameter: float) -> torch.Tensor:
    """Mean over the pairs given: ys [n, R], targets [n]."""
    match case.loss:
        case "squared":
            return functional.mse_loss(ys[:, 0], targets)
        case "absolute":
            return functional.l1_loss(ys[:, 0], targets)
        case "huber":
            return functional.huber_loss(ys[:, 0], targets, delta=parameter)
        case "student_t":
            return _student_t(ys[:, 0], targets, parameter)
        case "pinball":
            return _pinball(ys, targets, case.quantiles)
        case "gaussian":
            return _gaussian(ys, targets)
        case "softmax":
            return functional.cross_entropy(ys, targets.long())
        case "sigmoid":
            return functional.binary_cross_entropy_with_logits(ys[:, 0], targets)
    raise ValueError(case.loss)


def window_loss(case: Any, ys: torch.Tensor, targets: Any, active: np.ndarray, parameter: float) -> torch.Tensor:
    """Mean over the active pairs of a window: ys [T, K], targets and active [T, N]."""
    chosen = torch.as_tensor(active)
    of_pairs = ys.reshape(*chosen.shape, case.per_pair)
    return mean_loss(case, of_pairs[chosen], torch.as_tensor(targets)[chosen], float(parameter))


# ---- One window ------------------------------------------------------------------------------------------------------


def window(case: Any, data: Arrays) -> Arrays:
    """Forward from the carry, loss, and every gradient: what there is to know about `cases.window`.

    "trail" is the gradient of the newest pairs' share of that loss by the carry that enters each step; "whole" is what
    full backpropagation through time finds: from a zero carry, all known pairs.
    """
    found = []
    for b in range(case.learners):
        own = {name: array[b] for name, array in data.items()}
        whole = _gradients(case, own | {"boundary": 0 * own["boundary"], "active": ~np.isnan(own["targets"])})
        newest = {"trail": _trail(case, own), "whole loss": whole["loss"]}
        row = np.concatenate([whole[f"d{name}"].ravel() for name in case.shapes()])
        found.append(_gradients(case, own) | newest | {"all of the whole gradient": row})
    return {name: np.stack([one[name] for one in found]) for name in found[0]}


def _trail(case: Any, data: Arrays) -> np.ndarray:
    xs, carry = torch.tensor(data["inputs"]), torch.tensor(data["boundary"])
    _, *by_carries = gradient_of_newest(Network(case, data["params"]), xs, carry, data["targets"], data)
    return torch.stack(by_carries[::-1]).numpy()


def gradient_of_newest(
    net: Network, xs: torch.Tensor, boundary: torch.Tensor, targets: Any, data: Arrays
) -> tuple[torch.Tensor, ...]:
    """Gradients of what the newest row with an active pair adds to the loss of the window, which is a mean over all its
    active pairs: by that row's top hidden state, then by the carry that enters this step, the one before, and so on."""
    active = data["active"]
    newest = int(np.flatnonzero(active.any(axis=1))[-1])
    carries = [boundary.clone().requires_grad_()]
    for t in range(newest + 1):
        hs, carry = net(xs[t : t + 1], carries[-1])
        carries.append(carry)
    row, share = slice(newest, newest + 1), active[newest].sum() / active.sum()
    loss = share * window_loss(net.case, net.readout(hs), targets[row], active[row], data["loss_parameter"])
    return torch.autograd.grad(loss, [hs, *carries[newest::-1]])


def _gradients(case: Any, data: Arrays) -> Arrays:
    net = Network(case, data["params"])
    xs, carry = (torch.tensor(data[name], requires_grad=True) for name in ("inputs", "boundary"))
    hs, after = net(xs, carry)
    ys = net.readout(hs)
    loss = window_loss(case, ys, data["targets"], data["active"], data["loss_parameter"])
    loss.backward()
    gradient = net.row(lambda tensor: tensor.grad)
    tensors = {"hs": hs, "carry": after, "ys": ys, "loss": loss, "dinputs": xs.grad, "dcarry": carry.grad}
    results = {name: tensor.detach().numpy() for name, tensor in tensors.items()}
    return results | {f"d{name}": part[0] for name, part in case.split(gradient[None]).items()}


# ---- One update ------------------------------------------------------------------------------------------------------


def make_optimizer(name: str, parameters: Any, settings: dict[str, float]) -> torch.optim.Optimizer:
    """PyTorch's optimiser, weight decay aside unless it is AdamW's own."""
    rate, beta1, beta2 = (settings[name] for name in ("rate", "beta1", "beta2"))
    match name:
        case "sgd":
            return torch.optim.SGD(parameters, rate)
        case "momentum" | "nesterov":
            return torch.optim.SGD(parameters, rate, momentum=beta1, nesterov=name == "nesterov")
        case "rmsprop":
            return torch.optim.RMSprop(parameters, rate, alpha=beta2, eps=1e-8)
        case "adam":
            return torch.optim.Adam(parameters, rate, (beta1, beta2), eps=1e-8)
        case "adamw":
            return torch.optim.AdamW(parameters, rate, (beta1, beta2), eps=1e-8, weight_decay=settings["weight_decay"])
    raise ValueError(name)


MOMENTS = {
    "momentum": ["momentum_buffer"],
    "nesterov": ["momentum_buffer"],
    "rmsprop": ["square_avg"],
    "adam": ["exp_avg", "exp_avg_sq"],
    "adamw": ["exp_avg", "exp_avg_sq"],
}  # the optimiser's own names


def optimizer_step(name: str, optimizer: torch.optim.Optimizer, weight_decay: float) -> None:
    """One step with decoupled weight decay: AdamW brings it along, for the others it comes first."""
    if name != "adamw":
        with torch.no_grad():
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.mul_(1 - group["lr"] * weight_decay)
    optimizer.step()


def clip(kind: str, parameters: list[nn.Parameter], limit: float, past_norms: list[float]) -> float:
    """Clips the gradients in place; `limit` is the quantile's level for "quantile". Returns the norm before."""
    norm = float(torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))
    match kind:
        case "norm":
            torch.nn.utils.clip_grad_norm_(parameters, limit)
        case "value":
            torch.nn.utils.clip_grad_value_(parameters, limit)
        case "quantile" if len(past_norms) >= 8:
            bound = float(torch.quantile(torch.tensor(past_norms[-128:], dtype=F64), limit))
            for parameter in parameters:
                if parameter.grad is not None and norm > bound:
                    parameter.grad.mul_(bound / norm)
    return norm


def updates(case: Any, gradient: np.ndarray, params: np.ndarray, data: Arrays, pairs: Any) -> Arrays:
    """One step from `gradient` [B, P] of each optimiser after each clip in `pairs`: change, moments, clip's scale."""
    results: Arrays = {}
    for name, kind in pairs:
        steps = [
            _update(name, kind, gradient[b], params[b], {key: array[b] for key, array in data.items()})
            for b in range(case.learners)
        ]
        results[f"scale after {kind}"] = np.stack([one.pop("scale") for one in steps])
        for part in steps[0]:
            results[f"all {part} of {name} after {kind}"] = np.stack([one[part] for one in steps])
    return results


def _update(name: str, kind: str, gradient: np.ndarray, params: np.ndarray, data: Arrays) -> Arrays:
    row = nn.Parameter(torch.tensor(params))
    row.grad = torch.tensor(gradient)
    limit = float(data["quantile"] if kind == "quantile" else data.get(f"{kind}_limit", 1.0))
    norm = clip(kind, [row], limit, data["ring"][: data["ring_count"]].tolist())
    scale = row.grad.norm().numpy() / norm
    optimizer = make_optimizer(
        name, [row], {key: float(data[key]) for key in ("rate", "beta1", "beta2", "weight_decay")}
    )
    moments = MOMENTS.get(name, [])
    if data["steps"] > 1:
        state = {"step": torch.tensor(float(data["steps"] - 1))}
        for key, source in zip(moments, _starts(name), strict=True):
            state[key] = torch.tensor(data[source])
        optimizer.state[row] = state
    optimizer_step(name, optimizer, float(data["weight_decay"]))
    after = {f"moment{k}": optimizer.state[row][key].numpy() for k, key in enumerate(moments)}
    return {"change": row.detach().numpy() - params, "scale": scale, **after}


def _starts(name: str) -> list[str]:
    """Which of the drawn moments an optimiser starts from: squares are positive."""
    return {"sgd": [], "momentum": ["first"], "nesterov": ["first"], "rmsprop": ["second"]}.get(
        name, ["first", "second"]
    )


# ---- A stream --------------------------------------------------------------------------------------------------------


@dataclass
class Row:
    """One step of the window."""

    xs: np.ndarray  # [D]
    targets: np.ndarray  # [N], NaN: unknown
    arrived: np.ndarray  # [N] the step in which each became known


@dataclass
class Learner:
    """One learner on its stream: truncated backpropagation through time with lists and loops."""

    case: Any
    data: Arrays
    rows: list[Row] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    since_update: int = 0
    by_lag: np.ndarray | None = None

    def __post_init__(self) -> None:
        self.net = Network(self.case, self.data["params"])
        self.boundary = self.carry = torch.tensor(self.data["boundary"])
        settings = {key: float(self.data[key]) for key in ("rate", "beta1", "beta2", "weight_decay")}
        self.optimizer = make_optimizer(self.case.optimizer, self.net.parameters(), settings)

    def step(self, now: int, xs: np.ndarray, arrived: np.ndarray) -> np.ndarray:
        """Takes in one event and learns from it if an update is due; returns the outputs [K]."""
        case = self.case
        if len(self.rows) == case.rows:
            self.boundary = self._advance(self.boundary, self.rows.pop(0).xs)
        self.rows.append(Row(xs, np.full(case.pairs, np.nan), np.full(case.pairs, -1)))
        self._place(now, arrived)
        fresh = self._advance(self.carry, xs)
        before = self._outputs(fresh)  # what there was to say before the labels of this event were looked at
        self.since_update += 1
        if self.since_update < case.stride or not self._update(now):
            self.carry = fresh
        self.since_update %= case.stride
        return self._outputs(self.carry) if case.ahead else before

    def _advance(self, carry: torch.Tensor, xs: np.ndarray) -> torch.Tensor:
        with torch.no_grad():
            return self.net(torch.tensor(xs[None]), carry)[1]

    def _outputs(self, carry: torch.Tensor) -> np.ndarray:
        top = carry[-2] if self.case.cell == "lstm" else carry[-1]
        return self.net.readout(top).detach().numpy()

    def _place(self, now: int, arrived: np.ndarray) -> None:
        """Column h·O + o belongs to the pair made h + 1 steps back, or to this very step where there are labels."""
        for column, value in enumerate(arrived):
            back = self.case.ahead * (1 + column // self.case.targets)
            if back < len(self.rows):
                row = self.rows[-1 - back]
                row.targets[column], row.arrived[column] = value, now

    def _update(self, now: int) -> bool:
        case = self.case
        active = np.array([~np.isnan(r.targets) & (now - r.arrived < case.loss_span) for r in self.rows])
        if not active.any():
            return False
        xs, targets = (torch.tensor(np.array([getattr(r, key) for r in self.rows])) for key in ("xs", "targets"))
        self.optimizer.zero_grad()
        carry = self.boundary
        hs, after = self.net(xs, carry)
        loss = window_loss(case, self.net.readout(hs), targets, active, self.data["loss_parameter"])
        loss.backward()
        self.losses.append(loss.item())
        number = len(self.losses)
        if number % 64 == 0:
            self.by_lag = self._gradient_by_lag(xs, targets, active)
        self._schedule(number)
        self.norms.append(clip(case.clip, list(self.net.parameters()), float(self.data["clip_limit"]), self.norms))
        passed = max(0, len(self.rows) + case.stride - case.rows)  # rows that the next update will not reach
        with torch.no_grad():
            self.boundary = self.net(xs[:passed], carry)[1] if passed else carry
        optimizer_step(case.optimizer, self.optimizer, float(self.data["weight_decay"]))
        del self.rows[:passed]
        self.carry = after.detach()
        return True

    def _schedule(self, number: int) -> None:
        case, t = self.case, number - 1
        decayed = {"constant": 1.0, "inverse_sqrt": (1 + t / self.data["decay"]) ** -0.5}.get(
            case.schedule, 1 / (1 + t / self.data["decay"])
        )
        warm = min(1.0, number / self.data["warmup"]) if self.data["warmup"] else 1.0
        for group in self.optimizer.param_groups:
            group["lr"] = float(self.data["rate"] * max(self.data["floor"], decayed) * warm)

    def _gradient_by_lag(self, xs: torch.Tensor, targets: torch.Tensor, active: np.ndarray) -> np.ndarray:
        """Norm of the gradient of the newest pairs' loss by their hidden state, then by the carries before it."""
        data = {"active": active, "loss_parameter": self.data["loss_parameter"]}
        gradients = gradient_of_newest(self.net, xs, self.boundary, targets, data)
        norms = [float(gradient.norm()) for gradient in gradients]
        lags = [0, *(2**k for k in range(12) if 2**k < self.case.window), self.case.window]
        return np.array([norms[lag] if lag < len(norms) else np.nan for lag in lags])


def stream(case: Any, data: Arrays) -> Arrays:
    """A run over `cases.stream`: losses of the updates, outputs of every step, and what is left at the end."""
    learners = []
    for b in range(case.learners):
        own = {name: array[b] for name, array in data.items() if name not in ("xs", "arrived")}
        learner = Learner(case, own)
        outputs = [
            learner.step(now, xs, arrived)
            for now, (xs, arrived) in enumerate(zip(data["xs"][:, b], data["arrived"][:, b], strict=True))
        ]
        lags = learner.by_lag if learner.by_lag is not None else np.empty(0)
        left = {
            "all parameters": learner.net.row(),
            "last carry": learner.carry.numpy(),
            "last boundary": learner.boundary.numpy(),
        }
        learners.append(
            {
                "losses": np.array(learner.losses[: case.updates]),
                "by_lag": lags,
                "all outputs": np.array(outputs),
                **left,
            }
        )
    return {name: np.stack([one[name] for one in learners]) for name in learners[0]}
