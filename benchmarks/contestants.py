"""Who updates learners in `kernels.py`: the service's own, plain C, and PyTorch in two ways.

All do the same work: learners of one output, from given parameters and zero moments, are updated by every window of T
steps of a stream, from zero carries. Knows nothing of clocks.
"""

from __future__ import annotations

import ctypes
import math
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from bptt_core.backends import Learning
from bptt_core.learner import LearnerShape, device_fields, host_fields
from bptt_core.lessons import EVENT, Lesson
from bptt_core.parameters import ParameterLayout
from bptt_core.slab import Slab

Floats = NDArray[np.float32]

T: Final = 32
D: Final = 8
RATE: Final = 1e-3
CLIP_NORM: Final = 1.0
C_FLAGS: Final = ("-O3", "-march=native", "-ffast-math", "-mprefer-vector-width=512", "-fPIC")


@dataclass(frozen=True)
class Task:
    """What is to be learned: first parameters in canonical order, and a stream that is long enough for any turn."""

    cell: str
    H: int
    learners: int
    inputs: Floats = field(repr=False)  # [n, D]
    targets: Floats = field(repr=False)  # [n]
    parameters: Floats = field(repr=False)  # [learners, P]

    @classmethod
    def of(cls, cell: str, H: int, learners: int) -> Task:
        rng = np.random.default_rng(H)
        parameters = rng.uniform(-1, 1, (learners, ParameterLayout(cell, D, H, 1, 1).size)) / np.sqrt(H)
        inputs, targets = rng.standard_normal((4096, D)), rng.standard_normal(4096)
        return cls(cell, H, learners, *(a.astype(np.float32) for a in (inputs, targets, parameters)))

    @property
    def layout(self) -> ParameterLayout:
        return ParameterLayout(self.cell, D, self.H, 1, 1)

    @property
    def operations(self) -> float:
        """Multiplications and additions of the matrix products of an update: gates, their way back, and weights."""
        columns = (4 if self.cell == "lstm" else 3) * self.H
        return 2.0 * T * columns * ((D + self.H) + self.H + (D + self.H))


class Contestant(Protocol):
    """Learners on their way through the stream, from zero carries and moments; they update by every window of T."""

    def run(self, updates: int) -> None:
        """So many updates of every learner, each one step further on."""

    def state(self) -> tuple[Floats, Floats]:
        """First moments and parameters of the first learner, in canonical order [P]."""


class Ours:
    """The learners of a service, given lessons."""

    def __init__(self, task: Task, learning: Learning) -> None:
        self.shape = LearnerShape(
            cell=task.cell, layers=1, inputs=D, hidden=task.H, horizon=1, targets=1, ahead=1, symbols=0, window=T,
            stride=1, loss_span=T, loss="squared", quantiles=(), optimizer="adam", schedule="constant", clip="norm",
        )  # fmt: skip
        self.task, self.learning, self.at = task, learning, T
        self.device, self.host = Slab(np, device_fields(self.shape)), Slab(np, host_fields(self.shape))
        self.slots = np.array([(self.device.allocate(), self.host.allocate())[0] for _ in range(task.learners)])
        # One step is missing in a window of T and the newest, which brings the last target: nothing is evicted then.
        inputs, targets = np.zeros((task.learners, T + 1, D)), np.full((task.learners, T + 1, 1), np.nan)
        inputs[:, :T], targets[:, : T - 1, 0] = task.inputs[:T], task.targets[: T - 1]
        self.device.put(self.slots, {"params": task.parameters, "inputs": inputs, "targets": targets})
        numbers = {"length": T, "learning_rate": RATE, "clip_limit": CLIP_NORM}
        self.host.put(self.slots, {name: np.full(task.learners, number) for name, number in numbers.items()})

    def run(self, updates: int) -> None:
        n = self.task.learners
        if self.at + updates > len(self.task.inputs):
            self.at = T
        steps, zeros = slice(self.at, self.at + updates), np.zeros(n, np.int64)
        lesson = Lesson(
            start=zeros,
            count=np.full(n, updates),
            anchor=zeros,
            season=np.full(n, -1),
            inputs=self.task.inputs[steps],
            arrived=self.task.targets[self.at - 1 : self.at + updates - 1].reshape(-1, 1, 1),
            flags=np.full(updates, EVENT, np.int8),
        )
        self.learning.learn(self.shape, self.device, self.host, self.slots, lesson)
        self.at += updates

    def state(self) -> tuple[Floats, Floats]:
        moments, parameters = (self.device.get(name, int(self.slots[0])).copy() for name in ("moment0", "params"))
        return moments, parameters


class PlainC:
    """The loops of kernels.c; many learners on as many threads."""

    def __init__(self, task: Task, library: ctypes.CDLL, threads: int) -> None:
        self.task, self.library, self.step, self.at = task, library, 1, 0
        self.rows = on_a_cache_line(task.learners, 3, library.row_numbers())
        self.rows[:, 0, : task.layout.size] = task.parameters
        self.carry = on_a_cache_line(2, task.H)
        self.tapes = [on_a_cache_line(library.tape_numbers()) for _ in range(threads)]
        self.parts, self.pool = np.array_split(self.rows, threads), ThreadPoolExecutor(threads)

    def run(self, updates: int) -> None:
        self.at = 0 if self.at + updates + T > len(self.task.inputs) else self.at
        if len(self.parts) == 1:
            self._run(self.tapes[0], self.rows, updates)
        else:
            list(self.pool.map(self._run, self.tapes, self.parts, [updates] * len(self.parts)))
        self.step, self.at = self.step + updates, self.at + updates

    def _run(self, tape: Floats, rows: Floats, updates: int) -> None:
        streams = self.task.inputs[self.at :], self.task.targets[self.at :]
        own, learners, x, y, carry = (ctypes.c_void_p(a.ctypes.data) for a in (tape, rows, *streams, self.carry))
        rate, limit = ctypes.c_float(RATE), ctypes.c_float(CLIP_NORM)
        self.library.updates(own, learners, len(rows), x, y, carry, rate, limit, self.step, updates)

    def state(self) -> tuple[Floats, Floats]:
        parameters, moments = self.rows[0, :2, : self.task.layout.size].copy()
        return moments, parameters


def on_a_cache_line(*shape: int) -> Floats:
    """Zeros."""
    spare = np.zeros(math.prod(shape) + 16, np.float32)
    start = -spare.ctypes.data % 64 // 4
    return spare[start : start + math.prod(shape)].reshape(shape)


class TorchModule:
    """nn.LSTM or nn.GRU; many learners one by one."""

    def __init__(self, task: Task, torch: ModuleType) -> None:
        self.task, self.torch, self.at = task, torch, 0
        self.x, self.y = torch.from_numpy(task.inputs), torch.from_numpy(task.targets)
        rnn = torch.nn.LSTM if task.cell == "lstm" else torch.nn.GRU
        self.net, self.readout = rnn(D, task.H), torch.nn.Linear(task.H, 1)
        (w,), wo, bo = task.layout.split(task.parameters[:1])
        with torch.no_grad():
            given = [w.wx[0].T, w.wh[0].T, w.b[0], np.zeros_like(w.b[0])]
            if w.bh is not None:
                given[3][2 * task.H :] = w.bh[0]
            for mine, values in zip(self.net.parameters(), given, strict=True):
                mine.copy_(torch.from_numpy(np.ascontiguousarray(values)))
            self.readout.weight.copy_(torch.from_numpy(wo[0].T.copy()))
            self.readout.bias.copy_(torch.from_numpy(bo[0]))
        # The second bias only repeats the first one, but for GRU's n: held still, so that all have the same parameters.
        if w.bh is None:
            self.net.bias_hh_l0.requires_grad_(False)
        else:
            own = (torch.arange(3 * task.H) >= 2 * task.H).float()
            self.net.bias_hh_l0.register_hook(lambda slope: slope * own)
        self.all = [p for p in (*self.net.parameters(), *self.readout.parameters()) if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.all, lr=RATE, fused=True)

    def run(self, updates: int) -> None:
        torch = self.torch
        torch.set_num_threads(1)
        for _ in range(updates):
            self.at = 0 if self.at + T > len(self.x) else self.at
            hs, _ = self.net(self.x[self.at : self.at + T])
            loss = torch.nn.functional.mse_loss(self.readout(hs)[:, 0], self.y[self.at : self.at + T])
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.all, CLIP_NORM)
            self.optimizer.step()
            self.at += 1

    def state(self) -> tuple[Floats, Floats]:
        return self._row([self.optimizer.state[p]["exp_avg"] for p in self.all]), self._row(self.all)

    def _row(self, tensors: list[Any]) -> Floats:
        wx, wh, *biases, wo, bo = (tensor.detach().numpy() for tensor in tensors)
        biases[1:] = [b[2 * self.task.H :] for b in biases[1:]]
        return np.concatenate([part.reshape(-1) for part in (wx.T, wh.T, *biases, wo, bo)])


class TorchStacked:
    """The weights of all learners stacked, a batched product for each step, gradients by autograd."""

    def __init__(self, task: Task, torch: ModuleType, threads: int) -> None:
        self.task, self.torch, self.threads, self.at = task, torch, threads, 0
        self.x, self.y = torch.from_numpy(task.inputs), torch.from_numpy(task.targets)
        (w,), wo, bo = task.layout.split(task.parameters)
        arrays = [w.wx, w.wh, w.b, *([] if w.bh is None else [w.bh]), wo, bo]
        self.all = [torch.from_numpy(np.ascontiguousarray(a)).requires_grad_() for a in arrays]
        self.optimizer = torch.optim.Adam(self.all, lr=RATE, fused=True)

    def run(self, updates: int) -> None:
        torch = self.torch
        torch.set_num_threads(self.threads)
        for _ in range(updates):
            self.at = 0 if self.at + T > len(self.x) else self.at
            loss = ((self._outputs() - self.y[self.at : self.at + T]) ** 2).mean(dim=1).sum()
            self.optimizer.zero_grad()
            loss.backward()
            with torch.no_grad():
                norm = sum((p.grad**2).flatten(1).sum(dim=1) for p in self.all).sqrt()
                factor = (CLIP_NORM / (norm + 1e-6)).clamp(max=1.0)
                for p in self.all:
                    p.grad *= factor.reshape(-1, *[1] * (p.dim() - 1))
            self.optimizer.step()
            self.at += 1

    def _outputs(self) -> Any:
        """[N, T]"""
        torch, N, H = self.torch, self.task.learners, self.task.H
        wx, wh, b, *rest, wo, bo = self.all
        x = self.x[self.at : self.at + T].expand(N, T, D)
        gates = torch.baddbmm(b[:, None], x, wx)
        h, c, hs = torch.zeros(N, 1, H), torch.zeros(N, 1, H), []
        for t in range(T):
            if self.task.cell == "lstm":
                i, f, g, o = torch.baddbmm(gates[:, t : t + 1], h, wh).chunk(4, dim=2)
                c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
                h = torch.sigmoid(o) * torch.tanh(c)
            else:
                hidden, given = torch.bmm(h, wh), gates[:, t : t + 1]
                r, z = torch.sigmoid(given[..., : 2 * H] + hidden[..., : 2 * H]).chunk(2, dim=2)
                n = torch.tanh(given[..., 2 * H :] + r * (hidden[..., 2 * H :] + rest[0][:, None]))
                h = n + z * (h - n)
            hs.append(h)
        return torch.baddbmm(bo[:, None], torch.cat(hs, dim=1), wo)[..., 0]

    def state(self) -> tuple[Floats, Floats]:
        return self._row([self.optimizer.state[p]["exp_avg"] for p in self.all]), self._row(self.all)

    def _row(self, tensors: list[Any]) -> Floats:
        return np.concatenate([tensor.detach().numpy()[0].reshape(-1) for tensor in tensors])


def optional_torch() -> ModuleType | None:
    try:
        import torch
    except ImportError:
        return None
    return torch


def compiled_c(cell: str, H: int) -> ctypes.CDLL | None:
    """kernels.c for a cell and H; None where there is no compiler."""
    gcc = shutil.which("gcc")
    if gcc is None:
        return None
    sizes = [f"-DT={T}", f"-DD={D}", f"-DH={H}", *(["-DGRU"] if cell == "gru" else [])]
    with tempfile.TemporaryDirectory() as folder:
        code, library = f"{folder}/kernels.o", f"{folder}/kernels.so"
        subprocess.run([gcc, *C_FLAGS, *sizes, "-c", Path(__file__).with_name("kernels.c"), "-o", code], check=True)
        # Linked without the flags, or the library would set all of the process to flushing denormals.
        subprocess.run([gcc, "-shared", "-o", library, code, "-lmvec", "-lm"], check=True)
        return ctypes.CDLL(library)
