"""The learners compute with the backend's array module and with nothing else, so the same code runs on a GPU.

`Device` stands in for CuPy where there is no GPU. It is as strict: its arrays never become NumPy's by themselves, never
mix with them in arithmetic or assignment, and come back through `get` alone. (As in CuPy, NumPy arrays may be indices.)
Where there is a GPU the same bodies run on CuPy itself.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bptt_core import (
    CELLS,
    CLIPS,
    OPTIMIZERS,
    Backend,
    Categorical,
    Events,
    FieldError,
    Fold,
    Labels,
    Outcomes,
    select_backend,
)
from bptt_core.learner_config import NUMERIC_LOSSES

FUNCTIONS = (
    "add", "ascontiguousarray", "clip", "concatenate", "exp", "isfinite", "isnan", "log", "log1p", "matmul", "maximum",
    "minimum", "multiply", "sign", "sqrt", "stack", "subtract", "tanh", "where",
)  # fmt: skip
CREATORS = ("arange", "empty", "empty_like", "full", "zeros", "zeros_like")
BINARY = ("add", "sub", "mul", "truediv", "pow", "lt", "le", "gt", "ge", "eq", "ne", "and_", "or_", "matmul")
IN_PLACE = ("iadd", "isub", "imul", "itruediv", "iand", "ior")
UNARY = ("neg", "abs", "invert")
METHODS = ("all", "any", "astype", "copy", "max", "min", "reshape", "sum", "swapaxes", "transpose")


class DeviceArray:
    """An array elsewhere."""

    __array_ufunc__ = None  # NumPy's operators leave it to ours, which refuse NumPy's arrays
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, data: np.ndarray) -> None:
        self._data = data

    def get(self) -> np.ndarray:
        """A copy that is NumPy's."""
        return self._data.copy()

    def __array__(self, *args: object, **kwargs: object) -> np.ndarray:
        raise TypeError("implicit conversion to a NumPy array is not allowed")

    def __array_function__(self, *args: object) -> None:
        raise TypeError("a function of NumPy's was called with an array of the device")

    def __getitem__(self, index: Any) -> DeviceArray:
        return lifted(self._data[as_index(index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        self._data[as_index(index)] = lowered(value)

    def __len__(self) -> int:
        return len(self._data)

    def __iter__(self) -> Iterator[DeviceArray]:
        return (lifted(row) for row in self._data)

    def __bool__(self) -> bool:
        return bool(self._data)  # of more than one element: NumPy raises as CuPy does

    def __getattr__(self, name: str) -> Any:
        if name in {"shape", "dtype", "ndim", "size", "nbytes"}:
            return getattr(self._data, name)
        if name in METHODS:
            return on_device(getattr(self._data, name))
        raise AttributeError(name)


def lowered(value: Any) -> Any:
    """What a function of the device may be given, as NumPy's; refuses what is not on the device."""
    if isinstance(value, DeviceArray):
        return value._data
    if isinstance(value, np.ndarray):
        raise TypeError("unsupported type: numpy.ndarray")
    if isinstance(value, list | tuple):
        return type(value)(lowered(item) for item in value)
    return value


def lifted(value: Any) -> Any:
    """Results stay on the device, scalars too."""
    return DeviceArray(np.asarray(value)) if isinstance(value, np.ndarray | np.generic) else value


def as_index(index: Any) -> Any:
    if isinstance(index, tuple):
        return tuple(map(as_index, index))
    return index._data if isinstance(index, DeviceArray) else index


def on_device(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        given = {name: lowered(value) for name, value in kwargs.items()}
        result = function(*map(lowered, args), **given)
        return kwargs["out"] if kwargs.get("out") is not None else lifted(result)

    return call


def operators() -> None:
    """Gives DeviceArray the operators of an array."""

    def reflected(name: str) -> Callable[..., Any]:
        function = on_device(getattr(operator, name))
        return lambda self, other: function(other, self)

    def in_place(name: str) -> Callable[..., Any]:
        function = getattr(operator, name)

        def call(self: DeviceArray, other: Any) -> DeviceArray:
            function(self._data, lowered(other))
            return self

        return call

    for name in (*BINARY, *UNARY):
        setattr(DeviceArray, f"__{name.strip('_')}__", on_device(getattr(operator, name)))
    for name in ("add", "sub", "mul", "truediv", "pow", "and_", "or_"):
        setattr(DeviceArray, f"__r{name.strip('_')}__", reflected(name))
    for name in IN_PLACE:
        setattr(DeviceArray, f"__{name}__", in_place(name))


operators()

Device = SimpleNamespace(
    ndarray=DeviceArray,
    asarray=lambda value, dtype=None: lifted(np.array(value._data if isinstance(value, DeviceArray) else value, dtype)),
    **{name: on_device(getattr(np, name)) for name in (*FUNCTIONS, *CREATORS)},
)


@pytest.fixture
def stand_in(numpy_backend: Backend) -> Backend:
    return Backend("stand-in", Device, numpy_backend.fingerprint, "not a GPU")


@pytest.fixture
def gpu() -> Backend:
    try:
        return select_backend("cupy")
    except FieldError as error:
        pytest.skip(str(error))


def test_the_stand_in_is_strict() -> None:
    on, off = Device.asarray([1.0, 2.0]), np.array([1.0, 2.0])
    refused: list[Callable[[], object]] = [
        lambda: np.asarray(on),
        lambda: np.tanh(on),
        lambda: np.concatenate([on, on]),
        lambda: on + off,
        lambda: off * on,
        lambda: Device.add(on, off),
        lambda: Device.stack([on, off]),
        lambda: Device.tanh(on, out=off),
        lambda: operator.iadd(on, off),
        lambda: operator.iadd(off, on),
        lambda: operator.setitem(on, slice(None), off),
        lambda: operator.setitem(off, slice(None), on),
        lambda: float(on[0]),
    ]
    for act in refused:
        with pytest.raises(TypeError):
            act()
    with pytest.raises(ValueError, match="ambiguous"):
        bool(on > 1)
    assert (on + 1)[np.array([1])].get().tolist() == [3.0]
    assert isinstance(on.sum(), DeviceArray)


def stepped(backend: Backend, config: Any, values: np.ndarray) -> tuple[list[Outcomes], list[bytes]]:
    """Three sessions of one shape that enter, leave and rest at different events, one of them without values, all of
    them with a gap in time; their outcomes and checkpoints."""
    fold = Fold(backend)
    slots = [fold.create(config) for _ in range(5)]
    fold.delete(slots.pop(2))
    symbolic = config.task == "classify"
    times = 10 * np.arange(len(values))
    times[60:] += 35
    outcomes = []
    for start in range(0, len(values), 8):
        work = []
        for k, slot in enumerate(slots):
            here = slice(start, start + (8, 3, 8, 5)[k]) if k != 1 else slice(start, start + 8)
            of_session = np.full_like(values, np.nan) if k == 2 else values if symbolic else values * (k + 1)
            labels = of_session[here, :1] if config.labels and k != 3 else None
            episode = times[here] == 10 * 33
            work.append((slot, Events(of_session[here], times[here], labels, episode)))
        outcomes += fold.step(work[: 4 - start // 8 % 3])
        if config.labels:  # one label comes late
            fold.label(slots[1], Labels(np.array([start // 8 + 1]), np.array([[1.0]])))
        if start == 40:
            fold.configure(slots[0], learning=False)
            slots[3] = fold.restore(fold.checkpoint(slots[3]))
    assert fold.latest(slots[0]) is not None
    return outcomes, [fold.checkpoint(slot) for slot in slots]


BITS = Categorical("f0", ("no", "yes"))

EACH_KIND = pytest.mark.parametrize(
    "kind",
    [
        *({"cell": cell, "horizon": 2, "layers": 2} for cell in CELLS),
        *({"cell": "gru", "loss": loss, "horizon": 2} for loss in NUMERIC_LOSSES),
        *({"cell": "tanh", "optimizer": optimizer, "weight_decay": 0.1} for optimizer in OPTIMIZERS),
        *({"cell": "relu", "clip": clip, "clip_value": 0.01, "schedule": "inverse_sqrt"} for clip in CLIPS),
        {"cell": "lstm", "optimizer": "sgd", "stride": 3, "loss_span": 5, "anchor": "none", "clip_norm": 0.01},
        {"task": "classify", "targets": ("f0", "f1"), "cell": "gru", "seasons": ()},
        {"task": "classify", "targets": ("f0",), "categories": (BITS,), "horizon": 2, "seasons": ()},
        {"task": "regress", "labels": ("y",), "targets": (), "loss_span": 3, "seasons": ()},
    ],
    ids=lambda kind: "-".join(map(str, kind.values())),
)


def config_of(make_config: Any, kind: dict[str, Any]) -> Any:
    return make_config(2, **{"targets": ("f1",), "window": 6, "period_ns": 10, "seasons": (3,)} | kind)


@EACH_KIND
def test_the_stand_in_computes_the_same_bits(
    kind: dict[str, Any],
    stand_in: Backend,
    numpy_backend: Backend,
    make_config: Any,
    random_walks: Any,
    outcome_bits: Any,
) -> None:
    config, values = config_of(make_config, kind), random_walks(96, 2, missing=0.1)
    if config.task == "classify":
        values = np.where(np.isnan(values), np.nan, values > 0)
    expected, expected_bytes = stepped(numpy_backend, config, values)
    found, found_bytes = stepped(stand_in, config, values)
    assert [outcome_bits(o) for o in found] == [outcome_bits(o) for o in expected]
    assert found_bytes == expected_bytes


@pytest.mark.gpu
@EACH_KIND
def test_cupy_agrees_with_numpy(
    kind: dict[str, Any], gpu: Backend, numpy_backend: Backend, make_config: Any, random_walks: Any
) -> None:
    config, values = config_of(make_config, kind), random_walks(96, 2, missing=0.1)
    if config.task == "classify":
        values = np.where(np.isnan(values), np.nan, values > 0)
    expected, _ = stepped(numpy_backend, config, values)
    found, found_bytes = stepped(gpu, config, values)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours.update_result, theirs.update_result)
        np.testing.assert_allclose(ours.mean, theirs.mean, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(ours.loss, theirs.loss, rtol=1e-2, atol=1e-4)
    assert stepped(gpu, config, values)[1] == found_bytes, "the same GPU, other bits"


@pytest.mark.gpu
def test_cupy_has_what_the_stand_in_has(gpu: Backend) -> None:
    for name in vars(Device):
        assert hasattr(gpu.xp, name)
    for name in (*METHODS, "get"):
        assert hasattr(gpu.xp.ndarray, name)


@pytest.mark.gpu
def test_cupy_does_not_mind_the_neighbours(
    gpu: Backend, make_config: Any, random_walks: Any, outcome_bits: Any
) -> None:
    config, values = make_config(2, horizon=2), random_walks(64, 2)
    alone, fold = Fold(gpu), Fold(gpu)
    slot = alone.create(config)
    expected = outcome_bits(alone.step([(slot, Events(values))])[0])
    others = [fold.create(config) for _ in range(3)]
    work = [(others[k], Events(values * (np.nan, 1e9, 1)[k])) for k in range(3)]
    mine = fold.create(config)
    found = outcome_bits(fold.step([*work[:2], (mine, Events(values)), work[2]])[2])
    assert found == expected
