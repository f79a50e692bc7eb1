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
    CELL_RELU: _ClassVar[Cell]

class Task(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TASK_UNSPECIFIED: _ClassVar[Task]
    TASK_FORECAST: _ClassVar[Task]
    TASK_REGRESS: _ClassVar[Task]
    TASK_CLASSIFY: _ClassVar[Task]

class Scaling(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SCALING_UNSPECIFIED: _ClassVar[Scaling]
    SCALING_ONLINE: _ClassVar[Scaling]
    SCALING_FIXED: _ClassVar[Scaling]

class Anchor(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ANCHOR_UNSPECIFIED: _ClassVar[Anchor]
    ANCHOR_LAST_VALUE: _ClassVar[Anchor]
    ANCHOR_NONE: _ClassVar[Anchor]
    ANCHOR_SEASON: _ClassVar[Anchor]
    ANCHOR_SECOND_SEASON: _ClassVar[Anchor]

class Seasonality(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SEASONALITY_UNSPECIFIED: _ClassVar[Seasonality]
    SEASONALITY_FOUND: _ClassVar[Seasonality]
    SEASONALITY_GIVEN: _ClassVar[Seasonality]
    SEASONALITY_OFF: _ClassVar[Seasonality]

class Loss(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LOSS_UNSPECIFIED: _ClassVar[Loss]
    LOSS_SQUARED: _ClassVar[Loss]
    LOSS_HUBER: _ClassVar[Loss]
    LOSS_ABSOLUTE: _ClassVar[Loss]
    LOSS_STUDENT_T: _ClassVar[Loss]
    LOSS_PINBALL: _ClassVar[Loss]
    LOSS_GAUSSIAN: _ClassVar[Loss]
    LOSS_SOFTMAX: _ClassVar[Loss]
    LOSS_SIGMOID: _ClassVar[Loss]

class Optimizer(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OPTIMIZER_UNSPECIFIED: _ClassVar[Optimizer]
    OPTIMIZER_ADAM: _ClassVar[Optimizer]
    OPTIMIZER_SGD: _ClassVar[Optimizer]
    OPTIMIZER_MOMENTUM: _ClassVar[Optimizer]
    OPTIMIZER_NESTEROV: _ClassVar[Optimizer]
    OPTIMIZER_RMSPROP: _ClassVar[Optimizer]
    OPTIMIZER_ADAMW: _ClassVar[Optimizer]

class Schedule(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SCHEDULE_UNSPECIFIED: _ClassVar[Schedule]
    SCHEDULE_CONSTANT: _ClassVar[Schedule]
    SCHEDULE_INVERSE_SQRT: _ClassVar[Schedule]
    SCHEDULE_INVERSE: _ClassVar[Schedule]

class Clip(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CLIP_UNSPECIFIED: _ClassVar[Clip]
    CLIP_NORM: _ClassVar[Clip]
    CLIP_VALUE: _ClassVar[Clip]
    CLIP_QUANTILE: _ClassVar[Clip]
    CLIP_OFF: _ClassVar[Clip]

class Initializer(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    INITIALIZER_UNSPECIFIED: _ClassVar[Initializer]
    INITIALIZER_UNIFORM: _ClassVar[Initializer]
    INITIALIZER_GLOROT: _ClassVar[Initializer]
    INITIALIZER_HE: _ClassVar[Initializer]
    INITIALIZER_ORTHOGONAL: _ClassVar[Initializer]
    INITIALIZER_IDENTITY: _ClassVar[Initializer]

class BiasInit(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BIAS_INIT_UNSPECIFIED: _ClassVar[BiasInit]
    BIAS_INIT_FORGET: _ClassVar[BiasInit]
    BIAS_INIT_CHRONO: _ClassVar[BiasInit]
CELL_UNSPECIFIED: Cell
CELL_TANH: Cell
CELL_GRU: Cell
CELL_LSTM: Cell
CELL_RELU: Cell
TASK_UNSPECIFIED: Task
TASK_FORECAST: Task
TASK_REGRESS: Task
TASK_CLASSIFY: Task
SCALING_UNSPECIFIED: Scaling
SCALING_ONLINE: Scaling
SCALING_FIXED: Scaling
ANCHOR_UNSPECIFIED: Anchor
ANCHOR_LAST_VALUE: Anchor
ANCHOR_NONE: Anchor
ANCHOR_SEASON: Anchor
ANCHOR_SECOND_SEASON: Anchor
SEASONALITY_UNSPECIFIED: Seasonality
SEASONALITY_FOUND: Seasonality
SEASONALITY_GIVEN: Seasonality
SEASONALITY_OFF: Seasonality
LOSS_UNSPECIFIED: Loss
LOSS_SQUARED: Loss
LOSS_HUBER: Loss
LOSS_ABSOLUTE: Loss
LOSS_STUDENT_T: Loss
LOSS_PINBALL: Loss
LOSS_GAUSSIAN: Loss
LOSS_SOFTMAX: Loss
LOSS_SIGMOID: Loss
OPTIMIZER_UNSPECIFIED: Optimizer
OPTIMIZER_ADAM: Optimizer
OPTIMIZER_SGD: Optimizer
OPTIMIZER_MOMENTUM: Optimizer
OPTIMIZER_NESTEROV: Optimizer
OPTIMIZER_RMSPROP: Optimizer
OPTIMIZER_ADAMW: Optimizer
SCHEDULE_UNSPECIFIED: Schedule
SCHEDULE_CONSTANT: Schedule
SCHEDULE_INVERSE_SQRT: Schedule
SCHEDULE_INVERSE: Schedule
CLIP_UNSPECIFIED: Clip
CLIP_NORM: Clip
CLIP_VALUE: Clip
CLIP_QUANTILE: Clip
CLIP_OFF: Clip
INITIALIZER_UNSPECIFIED: Initializer
INITIALIZER_UNIFORM: Initializer
INITIALIZER_GLOROT: Initializer
INITIALIZER_HE: Initializer
INITIALIZER_ORTHOGONAL: Initializer
INITIALIZER_IDENTITY: Initializer
BIAS_INIT_UNSPECIFIED: BiasInit
BIAS_INIT_FORGET: BiasInit
BIAS_INIT_CHRONO: BiasInit

class LearnerConfig(_message.Message):
    __slots__ = ("cell", "hidden", "window", "stride", "loss_span", "loss", "huber_delta", "anchor", "optimizer", "learning_rate", "clip_norm", "seed", "layers", "student_dof", "quantiles", "beta1", "beta2", "weight_decay", "schedule", "warmup_updates", "decay_updates", "rate_floor", "clip", "clip_value", "clip_quantile", "input_init", "recurrent_init", "recurrent_gain", "bias_init", "forget_bias", "guard")
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
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    STUDENT_DOF_FIELD_NUMBER: _ClassVar[int]
    QUANTILES_FIELD_NUMBER: _ClassVar[int]
    BETA1_FIELD_NUMBER: _ClassVar[int]
    BETA2_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_DECAY_FIELD_NUMBER: _ClassVar[int]
    SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    WARMUP_UPDATES_FIELD_NUMBER: _ClassVar[int]
    DECAY_UPDATES_FIELD_NUMBER: _ClassVar[int]
    RATE_FLOOR_FIELD_NUMBER: _ClassVar[int]
    CLIP_FIELD_NUMBER: _ClassVar[int]
    CLIP_VALUE_FIELD_NUMBER: _ClassVar[int]
    CLIP_QUANTILE_FIELD_NUMBER: _ClassVar[int]
    INPUT_INIT_FIELD_NUMBER: _ClassVar[int]
    RECURRENT_INIT_FIELD_NUMBER: _ClassVar[int]
    RECURRENT_GAIN_FIELD_NUMBER: _ClassVar[int]
    BIAS_INIT_FIELD_NUMBER: _ClassVar[int]
    FORGET_BIAS_FIELD_NUMBER: _ClassVar[int]
    GUARD_FIELD_NUMBER: _ClassVar[int]
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
    layers: int
    student_dof: float
    quantiles: _containers.RepeatedScalarFieldContainer[float]
    beta1: float
    beta2: float
    weight_decay: float
    schedule: Schedule
    warmup_updates: int
    decay_updates: int
    rate_floor: float
    clip: Clip
    clip_value: float
    clip_quantile: float
    input_init: Initializer
    recurrent_init: Initializer
    recurrent_gain: float
    bias_init: BiasInit
    forget_bias: float
    guard: bool
    def __init__(self, cell: _Optional[_Union[Cell, str]] = ..., hidden: _Optional[int] = ..., window: _Optional[int] = ..., stride: _Optional[int] = ..., loss_span: _Optional[int] = ..., loss: _Optional[_Union[Loss, str]] = ..., huber_delta: _Optional[float] = ..., anchor: _Optional[_Union[Anchor, str]] = ..., optimizer: _Optional[_Union[Optimizer, str]] = ..., learning_rate: _Optional[float] = ..., clip_norm: _Optional[float] = ..., seed: _Optional[int] = ..., layers: _Optional[int] = ..., student_dof: _Optional[float] = ..., quantiles: _Optional[_Iterable[float]] = ..., beta1: _Optional[float] = ..., beta2: _Optional[float] = ..., weight_decay: _Optional[float] = ..., schedule: _Optional[_Union[Schedule, str]] = ..., warmup_updates: _Optional[int] = ..., decay_updates: _Optional[int] = ..., rate_floor: _Optional[float] = ..., clip: _Optional[_Union[Clip, str]] = ..., clip_value: _Optional[float] = ..., clip_quantile: _Optional[float] = ..., input_init: _Optional[_Union[Initializer, str]] = ..., recurrent_init: _Optional[_Union[Initializer, str]] = ..., recurrent_gain: _Optional[float] = ..., bias_init: _Optional[_Union[BiasInit, str]] = ..., forget_bias: _Optional[float] = ..., guard: bool = ...) -> None: ...

class Categorical(_message.Message):
    __slots__ = ("channel", "symbols")
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    SYMBOLS_FIELD_NUMBER: _ClassVar[int]
    channel: str
    symbols: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, channel: _Optional[str] = ..., symbols: _Optional[_Iterable[str]] = ...) -> None: ...

class SessionConfig(_message.Message):
    __slots__ = ("features", "targets", "horizon", "seasons", "period_ns", "coverage", "learner", "task", "labels", "categories", "label_age", "scaling", "means", "deviations", "learners", "seasonality")
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    HORIZON_FIELD_NUMBER: _ClassVar[int]
    SEASONS_FIELD_NUMBER: _ClassVar[int]
    PERIOD_NS_FIELD_NUMBER: _ClassVar[int]
    COVERAGE_FIELD_NUMBER: _ClassVar[int]
    LEARNER_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    CATEGORIES_FIELD_NUMBER: _ClassVar[int]
    LABEL_AGE_FIELD_NUMBER: _ClassVar[int]
    SCALING_FIELD_NUMBER: _ClassVar[int]
    MEANS_FIELD_NUMBER: _ClassVar[int]
    DEVIATIONS_FIELD_NUMBER: _ClassVar[int]
    LEARNERS_FIELD_NUMBER: _ClassVar[int]
    SEASONALITY_FIELD_NUMBER: _ClassVar[int]
    features: _containers.RepeatedScalarFieldContainer[str]
    targets: _containers.RepeatedScalarFieldContainer[str]
    horizon: int
    seasons: _containers.RepeatedScalarFieldContainer[int]
    period_ns: int
    coverage: float
    learner: LearnerConfig
    task: Task
    labels: _containers.RepeatedScalarFieldContainer[str]
    categories: _containers.RepeatedCompositeFieldContainer[Categorical]
    label_age: int
    scaling: Scaling
    means: _containers.RepeatedScalarFieldContainer[float]
    deviations: _containers.RepeatedScalarFieldContainer[float]
    learners: _containers.RepeatedCompositeFieldContainer[LearnerConfig]
    seasonality: Seasonality
    def __init__(self, features: _Optional[_Iterable[str]] = ..., targets: _Optional[_Iterable[str]] = ..., horizon: _Optional[int] = ..., seasons: _Optional[_Iterable[int]] = ..., period_ns: _Optional[int] = ..., coverage: _Optional[float] = ..., learner: _Optional[_Union[LearnerConfig, _Mapping]] = ..., task: _Optional[_Union[Task, str]] = ..., labels: _Optional[_Iterable[str]] = ..., categories: _Optional[_Iterable[_Union[Categorical, _Mapping]]] = ..., label_age: _Optional[int] = ..., scaling: _Optional[_Union[Scaling, str]] = ..., means: _Optional[_Iterable[float]] = ..., deviations: _Optional[_Iterable[float]] = ..., learners: _Optional[_Iterable[_Union[LearnerConfig, _Mapping]]] = ..., seasonality: _Optional[_Union[Seasonality, str]] = ...) -> None: ...
