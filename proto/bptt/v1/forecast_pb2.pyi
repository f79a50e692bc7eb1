from bptt.v1 import error_pb2 as _error_pb2
from bptt.v1 import session_pb2 as _session_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ReplyMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REPLY_MODE_UNSPECIFIED: _ClassVar[ReplyMode]
    REPLY_MODE_EVERY: _ClassVar[ReplyMode]
    REPLY_MODE_LAST: _ClassVar[ReplyMode]
    REPLY_MODE_NONE: _ClassVar[ReplyMode]

class UpdateResult(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    UPDATE_RESULT_UNSPECIFIED: _ClassVar[UpdateResult]
    UPDATE_RESULT_NOT_DUE: _ClassVar[UpdateResult]
    UPDATE_RESULT_APPLIED: _ClassVar[UpdateResult]
    UPDATE_RESULT_NO_TARGET: _ClassVar[UpdateResult]
    UPDATE_RESULT_NON_FINITE: _ClassVar[UpdateResult]
    UPDATE_RESULT_LEARNING_OFF: _ClassVar[UpdateResult]

class SensorState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SENSOR_STATE_UNSPECIFIED: _ClassVar[SensorState]
    SENSOR_STATE_OK: _ClassVar[SensorState]
    SENSOR_STATE_MISSING: _ClassVar[SensorState]
    SENSOR_STATE_STUCK: _ClassVar[SensorState]

class ResetReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RESET_REASON_UNSPECIFIED: _ClassVar[ResetReason]
    RESET_REASON_NON_FINITE: _ClassVar[ResetReason]
    RESET_REASON_DIVERGED: _ClassVar[ResetReason]
    RESET_REASON_RESTARTED: _ClassVar[ResetReason]
    RESET_REASON_SEASON: _ClassVar[ResetReason]

class WarmStartUpdates(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WARM_START_UPDATES_UNSPECIFIED: _ClassVar[WarmStartUpdates]
    WARM_START_UPDATES_PER_SEQUENCE: _ClassVar[WarmStartUpdates]
    WARM_START_UPDATES_PER_PASS: _ClassVar[WarmStartUpdates]
REPLY_MODE_UNSPECIFIED: ReplyMode
REPLY_MODE_EVERY: ReplyMode
REPLY_MODE_LAST: ReplyMode
REPLY_MODE_NONE: ReplyMode
UPDATE_RESULT_UNSPECIFIED: UpdateResult
UPDATE_RESULT_NOT_DUE: UpdateResult
UPDATE_RESULT_APPLIED: UpdateResult
UPDATE_RESULT_NO_TARGET: UpdateResult
UPDATE_RESULT_NON_FINITE: UpdateResult
UPDATE_RESULT_LEARNING_OFF: UpdateResult
SENSOR_STATE_UNSPECIFIED: SensorState
SENSOR_STATE_OK: SensorState
SENSOR_STATE_MISSING: SensorState
SENSOR_STATE_STUCK: SensorState
RESET_REASON_UNSPECIFIED: ResetReason
RESET_REASON_NON_FINITE: ResetReason
RESET_REASON_DIVERGED: ResetReason
RESET_REASON_RESTARTED: ResetReason
RESET_REASON_SEASON: ResetReason
WARM_START_UPDATES_UNSPECIFIED: WarmStartUpdates
WARM_START_UPDATES_PER_SEQUENCE: WarmStartUpdates
WARM_START_UPDATES_PER_PASS: WarmStartUpdates

class EventBatch(_message.Message):
    __slots__ = ("session_uid", "first_sequence", "timestamps_ns", "values", "labels", "episode_starts")
    SESSION_UID_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMPS_NS_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    EPISODE_STARTS_FIELD_NUMBER: _ClassVar[int]
    session_uid: str
    first_sequence: int
    timestamps_ns: _containers.RepeatedScalarFieldContainer[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    labels: _containers.RepeatedScalarFieldContainer[float]
    episode_starts: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, session_uid: _Optional[str] = ..., first_sequence: _Optional[int] = ..., timestamps_ns: _Optional[_Iterable[int]] = ..., values: _Optional[_Iterable[float]] = ..., labels: _Optional[_Iterable[float]] = ..., episode_starts: _Optional[_Iterable[int]] = ...) -> None: ...

class Outcomes(_message.Message):
    __slots__ = ("first_sequence", "count", "horizon", "targets", "mean", "lower", "upper", "anomaly_score", "update_results", "loss", "gradient_norm", "clip_scale", "distribution", "distribution_size", "saturation", "update_ratio", "gradient_by_lag", "target_anomaly_score", "anomaly_likelihood", "sensor_states", "drift", "warming_up", "learner_resets")
    FIRST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    HORIZON_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    LOWER_FIELD_NUMBER: _ClassVar[int]
    UPPER_FIELD_NUMBER: _ClassVar[int]
    ANOMALY_SCORE_FIELD_NUMBER: _ClassVar[int]
    UPDATE_RESULTS_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_NORM_FIELD_NUMBER: _ClassVar[int]
    CLIP_SCALE_FIELD_NUMBER: _ClassVar[int]
    DISTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    DISTRIBUTION_SIZE_FIELD_NUMBER: _ClassVar[int]
    SATURATION_FIELD_NUMBER: _ClassVar[int]
    UPDATE_RATIO_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_BY_LAG_FIELD_NUMBER: _ClassVar[int]
    TARGET_ANOMALY_SCORE_FIELD_NUMBER: _ClassVar[int]
    ANOMALY_LIKELIHOOD_FIELD_NUMBER: _ClassVar[int]
    SENSOR_STATES_FIELD_NUMBER: _ClassVar[int]
    DRIFT_FIELD_NUMBER: _ClassVar[int]
    WARMING_UP_FIELD_NUMBER: _ClassVar[int]
    LEARNER_RESETS_FIELD_NUMBER: _ClassVar[int]
    first_sequence: int
    count: int
    horizon: int
    targets: int
    mean: _containers.RepeatedScalarFieldContainer[float]
    lower: _containers.RepeatedScalarFieldContainer[float]
    upper: _containers.RepeatedScalarFieldContainer[float]
    anomaly_score: _containers.RepeatedScalarFieldContainer[float]
    update_results: _containers.RepeatedScalarFieldContainer[UpdateResult]
    loss: _containers.RepeatedScalarFieldContainer[float]
    gradient_norm: _containers.RepeatedScalarFieldContainer[float]
    clip_scale: _containers.RepeatedScalarFieldContainer[float]
    distribution: _containers.RepeatedScalarFieldContainer[float]
    distribution_size: int
    saturation: _containers.RepeatedScalarFieldContainer[float]
    update_ratio: _containers.RepeatedScalarFieldContainer[float]
    gradient_by_lag: _containers.RepeatedCompositeFieldContainer[GradientByLag]
    target_anomaly_score: _containers.RepeatedScalarFieldContainer[float]
    anomaly_likelihood: _containers.RepeatedScalarFieldContainer[float]
    sensor_states: _containers.RepeatedScalarFieldContainer[SensorState]
    drift: _containers.RepeatedScalarFieldContainer[bool]
    warming_up: _containers.RepeatedScalarFieldContainer[bool]
    learner_resets: _containers.RepeatedCompositeFieldContainer[LearnerReset]
    def __init__(self, first_sequence: _Optional[int] = ..., count: _Optional[int] = ..., horizon: _Optional[int] = ..., targets: _Optional[int] = ..., mean: _Optional[_Iterable[float]] = ..., lower: _Optional[_Iterable[float]] = ..., upper: _Optional[_Iterable[float]] = ..., anomaly_score: _Optional[_Iterable[float]] = ..., update_results: _Optional[_Iterable[_Union[UpdateResult, str]]] = ..., loss: _Optional[_Iterable[float]] = ..., gradient_norm: _Optional[_Iterable[float]] = ..., clip_scale: _Optional[_Iterable[float]] = ..., distribution: _Optional[_Iterable[float]] = ..., distribution_size: _Optional[int] = ..., saturation: _Optional[_Iterable[float]] = ..., update_ratio: _Optional[_Iterable[float]] = ..., gradient_by_lag: _Optional[_Iterable[_Union[GradientByLag, _Mapping]]] = ..., target_anomaly_score: _Optional[_Iterable[float]] = ..., anomaly_likelihood: _Optional[_Iterable[float]] = ..., sensor_states: _Optional[_Iterable[_Union[SensorState, str]]] = ..., drift: _Optional[_Iterable[bool]] = ..., warming_up: _Optional[_Iterable[bool]] = ..., learner_resets: _Optional[_Iterable[_Union[LearnerReset, _Mapping]]] = ...) -> None: ...

class LearnerReset(_message.Message):
    __slots__ = ("sequence", "learner", "reason")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    LEARNER_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    learner: int
    reason: ResetReason
    def __init__(self, sequence: _Optional[int] = ..., learner: _Optional[int] = ..., reason: _Optional[_Union[ResetReason, str]] = ...) -> None: ...

class GradientByLag(_message.Message):
    __slots__ = ("sequence", "lag", "norm")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    LAG_FIELD_NUMBER: _ClassVar[int]
    NORM_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    lag: _containers.RepeatedScalarFieldContainer[int]
    norm: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, sequence: _Optional[int] = ..., lag: _Optional[_Iterable[int]] = ..., norm: _Optional[_Iterable[float]] = ...) -> None: ...

class BatchResult(_message.Message):
    __slots__ = ("first_sequence", "last_sequence", "duplicates", "outcomes")
    FIRST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    DUPLICATES_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    first_sequence: int
    last_sequence: int
    duplicates: int
    outcomes: Outcomes
    def __init__(self, first_sequence: _Optional[int] = ..., last_sequence: _Optional[int] = ..., duplicates: _Optional[int] = ..., outcomes: _Optional[_Union[Outcomes, _Mapping]] = ...) -> None: ...

class StreamOpen(_message.Message):
    __slots__ = ("channel", "session_id", "session_uid", "reply_mode")
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_UID_FIELD_NUMBER: _ClassVar[int]
    REPLY_MODE_FIELD_NUMBER: _ClassVar[int]
    channel: int
    session_id: str
    session_uid: str
    reply_mode: ReplyMode
    def __init__(self, channel: _Optional[int] = ..., session_id: _Optional[str] = ..., session_uid: _Optional[str] = ..., reply_mode: _Optional[_Union[ReplyMode, str]] = ...) -> None: ...

class StreamEvents(_message.Message):
    __slots__ = ("channel", "batch")
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    channel: int
    batch: EventBatch
    def __init__(self, channel: _Optional[int] = ..., batch: _Optional[_Union[EventBatch, _Mapping]] = ...) -> None: ...

class StreamEnd(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StreamRequest(_message.Message):
    __slots__ = ("open", "events", "end")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    open: StreamOpen
    events: StreamEvents
    end: StreamEnd
    def __init__(self, open: _Optional[_Union[StreamOpen, _Mapping]] = ..., events: _Optional[_Union[StreamEvents, _Mapping]] = ..., end: _Optional[_Union[StreamEnd, _Mapping]] = ...) -> None: ...

class StreamOpened(_message.Message):
    __slots__ = ("channel", "session_uid", "last_sequence", "credit_events", "max_batch_events")
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    SESSION_UID_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    CREDIT_EVENTS_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_EVENTS_FIELD_NUMBER: _ClassVar[int]
    channel: int
    session_uid: str
    last_sequence: int
    credit_events: int
    max_batch_events: int
    def __init__(self, channel: _Optional[int] = ..., session_uid: _Optional[str] = ..., last_sequence: _Optional[int] = ..., credit_events: _Optional[int] = ..., max_batch_events: _Optional[int] = ...) -> None: ...

class StreamResult(_message.Message):
    __slots__ = ("channel", "result")
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    channel: int
    result: BatchResult
    def __init__(self, channel: _Optional[int] = ..., result: _Optional[_Union[BatchResult, _Mapping]] = ...) -> None: ...

class StreamError(_message.Message):
    __slots__ = ("channel", "error", "last_sequence", "first_sequence", "closed")
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    CLOSED_FIELD_NUMBER: _ClassVar[int]
    channel: int
    error: _error_pb2.Error
    last_sequence: int
    first_sequence: int
    closed: bool
    def __init__(self, channel: _Optional[int] = ..., error: _Optional[_Union[_error_pb2.Error, _Mapping]] = ..., last_sequence: _Optional[int] = ..., first_sequence: _Optional[int] = ..., closed: bool = ...) -> None: ...

class StreamDraining(_message.Message):
    __slots__ = ("resume_points",)
    RESUME_POINTS_FIELD_NUMBER: _ClassVar[int]
    resume_points: _containers.RepeatedCompositeFieldContainer[ResumePoint]
    def __init__(self, resume_points: _Optional[_Iterable[_Union[ResumePoint, _Mapping]]] = ...) -> None: ...

class ResumePoint(_message.Message):
    __slots__ = ("channel", "last_sequence")
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    channel: int
    last_sequence: int
    def __init__(self, channel: _Optional[int] = ..., last_sequence: _Optional[int] = ...) -> None: ...

class StreamEnded(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StreamResponse(_message.Message):
    __slots__ = ("opened", "result", "error", "draining", "ended")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    opened: StreamOpened
    result: StreamResult
    error: StreamError
    draining: StreamDraining
    ended: StreamEnded
    def __init__(self, opened: _Optional[_Union[StreamOpened, _Mapping]] = ..., result: _Optional[_Union[StreamResult, _Mapping]] = ..., error: _Optional[_Union[StreamError, _Mapping]] = ..., draining: _Optional[_Union[StreamDraining, _Mapping]] = ..., ended: _Optional[_Union[StreamEnded, _Mapping]] = ...) -> None: ...

class IngestRequest(_message.Message):
    __slots__ = ("session_id", "batch", "reply_mode")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    REPLY_MODE_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    batch: EventBatch
    reply_mode: ReplyMode
    def __init__(self, session_id: _Optional[str] = ..., batch: _Optional[_Union[EventBatch, _Mapping]] = ..., reply_mode: _Optional[_Union[ReplyMode, str]] = ...) -> None: ...

class IngestResponse(_message.Message):
    __slots__ = ("session_uid", "result")
    SESSION_UID_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    session_uid: str
    result: BatchResult
    def __init__(self, session_uid: _Optional[str] = ..., result: _Optional[_Union[BatchResult, _Mapping]] = ...) -> None: ...

class LabelRequest(_message.Message):
    __slots__ = ("session_id", "session_uid", "sequences", "labels")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_UID_FIELD_NUMBER: _ClassVar[int]
    SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    session_uid: str
    sequences: _containers.RepeatedScalarFieldContainer[int]
    labels: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, session_id: _Optional[str] = ..., session_uid: _Optional[str] = ..., sequences: _Optional[_Iterable[int]] = ..., labels: _Optional[_Iterable[float]] = ...) -> None: ...

class LabelResponse(_message.Message):
    __slots__ = ("session_uid", "accepted", "duplicates", "trainable")
    SESSION_UID_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    DUPLICATES_FIELD_NUMBER: _ClassVar[int]
    TRAINABLE_FIELD_NUMBER: _ClassVar[int]
    session_uid: str
    accepted: int
    duplicates: int
    trainable: int
    def __init__(self, session_uid: _Optional[str] = ..., accepted: _Optional[int] = ..., duplicates: _Optional[int] = ..., trainable: _Optional[int] = ...) -> None: ...

class WarmStartRequest(_message.Message):
    __slots__ = ("session_id", "session_uid", "history", "passes", "updates")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_UID_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    PASSES_FIELD_NUMBER: _ClassVar[int]
    UPDATES_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    session_uid: str
    history: EventBatch
    passes: int
    updates: WarmStartUpdates
    def __init__(self, session_id: _Optional[str] = ..., session_uid: _Optional[str] = ..., history: _Optional[_Union[EventBatch, _Mapping]] = ..., passes: _Optional[int] = ..., updates: _Optional[_Union[WarmStartUpdates, str]] = ...) -> None: ...

class WarmStartResponse(_message.Message):
    __slots__ = ("session_uid", "loss", "applied")
    SESSION_UID_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    session_uid: str
    loss: _containers.RepeatedScalarFieldContainer[float]
    applied: int
    def __init__(self, session_uid: _Optional[str] = ..., loss: _Optional[_Iterable[float]] = ..., applied: _Optional[int] = ...) -> None: ...

class ForecastRequest(_message.Message):
    __slots__ = ("session_id", "session_uid", "horizon")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_UID_FIELD_NUMBER: _ClassVar[int]
    HORIZON_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    session_uid: str
    horizon: int
    def __init__(self, session_id: _Optional[str] = ..., session_uid: _Optional[str] = ..., horizon: _Optional[int] = ...) -> None: ...

class ForecastResponse(_message.Message):
    __slots__ = ("session_uid", "outcome", "timestamp_ns")
    SESSION_UID_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_NS_FIELD_NUMBER: _ClassVar[int]
    session_uid: str
    outcome: Outcomes
    timestamp_ns: int
    def __init__(self, session_uid: _Optional[str] = ..., outcome: _Optional[_Union[Outcomes, _Mapping]] = ..., timestamp_ns: _Optional[int] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("session_id",)
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    def __init__(self, session_id: _Optional[str] = ...) -> None: ...

class WatchResponse(_message.Message):
    __slots__ = ("session", "outcomes", "dropped_events")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    DROPPED_EVENTS_FIELD_NUMBER: _ClassVar[int]
    session: _session_pb2.Session
    outcomes: Outcomes
    dropped_events: int
    def __init__(self, session: _Optional[_Union[_session_pb2.Session, _Mapping]] = ..., outcomes: _Optional[_Union[Outcomes, _Mapping]] = ..., dropped_events: _Optional[int] = ...) -> None: ...
