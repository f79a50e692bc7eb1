from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Cell(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CELL_UNSPECIFIED: _ClassVar[Cell]
    CELL_TANH: _ClassVar[Cell]
    CELL_GRU: _ClassVar[Cell]
    CELL_LSTM: _ClassVar[Cell]

class Anchor(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ANCHOR_UNSPECIFIED: _ClassVar[Anchor]
    ANCHOR_LAST_VALUE: _ClassVar[Anchor]
    ANCHOR_NONE: _ClassVar[Anchor]

class Loss(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LOSS_UNSPECIFIED: _ClassVar[Loss]
    LOSS_SQUARED: _ClassVar[Loss]
    LOSS_HUBER: _ClassVar[Loss]

class Optimizer(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OPTIMIZER_UNSPECIFIED: _ClassVar[Optimizer]
    OPTIMIZER_ADAM: _ClassVar[Optimizer]
    OPTIMIZER_SGD: _ClassVar[Optimizer]
CELL_UNSPECIFIED: Cell
CELL_TANH: Cell
CELL_GRU: Cell
CELL_LSTM: Cell
ANCHOR_UNSPECIFIED: Anchor
ANCHOR_LAST_VALUE: Anchor
ANCHOR_NONE: Anchor
LOSS_UNSPECIFIED: Loss
LOSS_SQUARED: Loss
LOSS_HUBER: Loss
OPTIMIZER_UNSPECIFIED: Optimizer
OPTIMIZER_ADAM: Optimizer
OPTIMIZER_SGD: Optimizer

class LearnerConfig(_message.Message):
    __slots__ = ("cell", "hidden", "window", "stride", "loss_span", "loss", "huber_delta", "anchor", "optimizer", "learning_rate", "clip_norm", "seed")
    CELL_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    STRIDE_FIELD_NUMBER: _ClassVar[int]
    LOSS_SPAN_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    HUBER_DELTA_FIELD_NUMBER: _ClassVar[int]
    ANCHOR_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    CLIP_NORM_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    cell: Cell
    hidden: int
    window: int
    stride: int
    loss_span: int
    loss: Loss
    huber_delta: float
    anchor: Anchor
    optimizer: Optimizer
    learning_rate: float
    clip_norm: float
    seed: int
    def __init__(self, cell: _Optional[_Union[Cell, str]] = ..., hidden: _Optional[int] = ..., window: _Optional[int] = ..., stride: _Optional[int] = ..., loss_span: _Optional[int] = ..., loss: _Optional[_Union[Loss, str]] = ..., huber_delta: _Optional[float] = ..., anchor: _Optional[_Union[Anchor, str]] = ..., optimizer: _Optional[_Union[Optimizer, str]] = ..., learning_rate: _Optional[float] = ..., clip_norm: _Optional[float] = ..., seed: _Optional[int] = ...) -> None: ...

class SessionConfig(_message.Message):
    __slots__ = ("features", "targets", "horizon", "seasons", "period_ns", "coverage", "learner")
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    HORIZON_FIELD_NUMBER: _ClassVar[int]
    SEASONS_FIELD_NUMBER: _ClassVar[int]
    PERIOD_NS_FIELD_NUMBER: _ClassVar[int]
    COVERAGE_FIELD_NUMBER: _ClassVar[int]
    LEARNER_FIELD_NUMBER: _ClassVar[int]
    features: _containers.RepeatedScalarFieldContainer[str]
    targets: _containers.RepeatedScalarFieldContainer[str]
    horizon: int
    seasons: _containers.RepeatedScalarFieldContainer[int]
    period_ns: int
    coverage: float
    learner: LearnerConfig
    def __init__(self, features: _Optional[_Iterable[str]] = ..., targets: _Optional[_Iterable[str]] = ..., horizon: _Optional[int] = ..., seasons: _Optional[_Iterable[int]] = ..., period_ns: _Optional[int] = ..., coverage: _Optional[float] = ..., learner: _Optional[_Union[LearnerConfig, _Mapping]] = ...) -> None: ...
