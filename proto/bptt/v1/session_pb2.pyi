from bptt.v1 import config_pb2 as _config_pb2
from google.protobuf import field_mask_pb2 as _field_mask_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ExportFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EXPORT_FORMAT_UNSPECIFIED: _ClassVar[ExportFormat]
    EXPORT_FORMAT_CHECKPOINT: _ClassVar[ExportFormat]
    EXPORT_FORMAT_SAFETENSORS: _ClassVar[ExportFormat]
EXPORT_FORMAT_UNSPECIFIED: ExportFormat
EXPORT_FORMAT_CHECKPOINT: ExportFormat
EXPORT_FORMAT_SAFETENSORS: ExportFormat

class Session(_message.Message):
    __slots__ = ("session_id", "uid", "config", "tags", "learning", "limits", "create_time", "last_sequence", "last_timestamp_ns", "period_ns", "updates", "scores", "backend", "parameters", "experts", "seasons", "drifts")
    class TagsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    LEARNING_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    LAST_TIMESTAMP_NS_FIELD_NUMBER: _ClassVar[int]
    PERIOD_NS_FIELD_NUMBER: _ClassVar[int]
    UPDATES_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    EXPERTS_FIELD_NUMBER: _ClassVar[int]
    SEASONS_FIELD_NUMBER: _ClassVar[int]
    DRIFTS_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    uid: str
    config: _config_pb2.SessionConfig
    tags: _containers.ScalarMap[str, str]
    learning: bool
    limits: SessionLimits
    create_time: _timestamp_pb2.Timestamp
    last_sequence: int
    last_timestamp_ns: int
    period_ns: int
    updates: UpdateCounts
    scores: Scores
    backend: str
    parameters: int
    experts: _containers.RepeatedCompositeFieldContainer[Expert]
    seasons: _containers.RepeatedScalarFieldContainer[int]
    drifts: int
    def __init__(self, session_id: _Optional[str] = ..., uid: _Optional[str] = ..., config: _Optional[_Union[_config_pb2.SessionConfig, _Mapping]] = ..., tags: _Optional[_Mapping[str, str]] = ..., learning: bool = ..., limits: _Optional[_Union[SessionLimits, _Mapping]] = ..., create_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., last_sequence: _Optional[int] = ..., last_timestamp_ns: _Optional[int] = ..., period_ns: _Optional[int] = ..., updates: _Optional[_Union[UpdateCounts, _Mapping]] = ..., scores: _Optional[_Union[Scores, _Mapping]] = ..., backend: _Optional[str] = ..., parameters: _Optional[int] = ..., experts: _Optional[_Iterable[_Union[Expert, _Mapping]]] = ..., seasons: _Optional[_Iterable[int]] = ..., drifts: _Optional[int] = ...) -> None: ...

class Expert(_message.Message):
    __slots__ = ("name", "weight", "relative_error", "updates", "rate_factor")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    RELATIVE_ERROR_FIELD_NUMBER: _ClassVar[int]
    UPDATES_FIELD_NUMBER: _ClassVar[int]
    RATE_FACTOR_FIELD_NUMBER: _ClassVar[int]
    name: str
    weight: float
    relative_error: float
    updates: UpdateCounts
    rate_factor: float
    def __init__(self, name: _Optional[str] = ..., weight: _Optional[float] = ..., relative_error: _Optional[float] = ..., updates: _Optional[_Union[UpdateCounts, _Mapping]] = ..., rate_factor: _Optional[float] = ...) -> None: ...

class SessionLimits(_message.Message):
    __slots__ = ("credit_events",)
    CREDIT_EVENTS_FIELD_NUMBER: _ClassVar[int]
    credit_events: int
    def __init__(self, credit_events: _Optional[int] = ...) -> None: ...

class UpdateCounts(_message.Message):
    __slots__ = ("applied", "clipped", "no_target", "non_finite", "learning_off", "reset_non_finite", "reset_diverged", "reset_restarted", "reset_season")
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    CLIPPED_FIELD_NUMBER: _ClassVar[int]
    NO_TARGET_FIELD_NUMBER: _ClassVar[int]
    NON_FINITE_FIELD_NUMBER: _ClassVar[int]
    LEARNING_OFF_FIELD_NUMBER: _ClassVar[int]
    RESET_NON_FINITE_FIELD_NUMBER: _ClassVar[int]
    RESET_DIVERGED_FIELD_NUMBER: _ClassVar[int]
    RESET_RESTARTED_FIELD_NUMBER: _ClassVar[int]
    RESET_SEASON_FIELD_NUMBER: _ClassVar[int]
    applied: int
    clipped: int
    no_target: int
    non_finite: int
    learning_off: int
    reset_non_finite: int
    reset_diverged: int
    reset_restarted: int
    reset_season: int
    def __init__(self, applied: _Optional[int] = ..., clipped: _Optional[int] = ..., no_target: _Optional[int] = ..., non_finite: _Optional[int] = ..., learning_off: _Optional[int] = ..., reset_non_finite: _Optional[int] = ..., reset_diverged: _Optional[int] = ..., reset_restarted: _Optional[int] = ..., reset_season: _Optional[int] = ...) -> None: ...

class Scores(_message.Message):
    __slots__ = ("count", "mse", "mae", "persistence_mse", "persistence_mae", "seasonal_mse", "seasonal_mae", "coverage", "width", "log_loss", "naive_log_loss", "error_rate", "naive_error_rate", "interval_score")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    MSE_FIELD_NUMBER: _ClassVar[int]
    MAE_FIELD_NUMBER: _ClassVar[int]
    PERSISTENCE_MSE_FIELD_NUMBER: _ClassVar[int]
    PERSISTENCE_MAE_FIELD_NUMBER: _ClassVar[int]
    SEASONAL_MSE_FIELD_NUMBER: _ClassVar[int]
    SEASONAL_MAE_FIELD_NUMBER: _ClassVar[int]
    COVERAGE_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    LOG_LOSS_FIELD_NUMBER: _ClassVar[int]
    NAIVE_LOG_LOSS_FIELD_NUMBER: _ClassVar[int]
    ERROR_RATE_FIELD_NUMBER: _ClassVar[int]
    NAIVE_ERROR_RATE_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_SCORE_FIELD_NUMBER: _ClassVar[int]
    count: _containers.RepeatedScalarFieldContainer[int]
    mse: _containers.RepeatedScalarFieldContainer[float]
    mae: _containers.RepeatedScalarFieldContainer[float]
    persistence_mse: _containers.RepeatedScalarFieldContainer[float]
    persistence_mae: _containers.RepeatedScalarFieldContainer[float]
    seasonal_mse: _containers.RepeatedScalarFieldContainer[float]
    seasonal_mae: _containers.RepeatedScalarFieldContainer[float]
    coverage: _containers.RepeatedScalarFieldContainer[float]
    width: _containers.RepeatedScalarFieldContainer[float]
    log_loss: _containers.RepeatedScalarFieldContainer[float]
    naive_log_loss: _containers.RepeatedScalarFieldContainer[float]
    error_rate: _containers.RepeatedScalarFieldContainer[float]
    naive_error_rate: _containers.RepeatedScalarFieldContainer[float]
    interval_score: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, count: _Optional[_Iterable[int]] = ..., mse: _Optional[_Iterable[float]] = ..., mae: _Optional[_Iterable[float]] = ..., persistence_mse: _Optional[_Iterable[float]] = ..., persistence_mae: _Optional[_Iterable[float]] = ..., seasonal_mse: _Optional[_Iterable[float]] = ..., seasonal_mae: _Optional[_Iterable[float]] = ..., coverage: _Optional[_Iterable[float]] = ..., width: _Optional[_Iterable[float]] = ..., log_loss: _Optional[_Iterable[float]] = ..., naive_log_loss: _Optional[_Iterable[float]] = ..., error_rate: _Optional[_Iterable[float]] = ..., naive_error_rate: _Optional[_Iterable[float]] = ..., interval_score: _Optional[_Iterable[float]] = ...) -> None: ...

class CreateSessionRequest(_message.Message):
    __slots__ = ("session_id", "config", "tags", "learning", "limits")
    class TagsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    LEARNING_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    config: _config_pb2.SessionConfig
    tags: _containers.ScalarMap[str, str]
    learning: bool
    limits: SessionLimits
    def __init__(self, session_id: _Optional[str] = ..., config: _Optional[_Union[_config_pb2.SessionConfig, _Mapping]] = ..., tags: _Optional[_Mapping[str, str]] = ..., learning: bool = ..., limits: _Optional[_Union[SessionLimits, _Mapping]] = ...) -> None: ...

class CreateSessionResponse(_message.Message):
    __slots__ = ("session", "created")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    session: Session
    created: bool
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ..., created: bool = ...) -> None: ...

class GetSessionRequest(_message.Message):
    __slots__ = ("session_id",)
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    def __init__(self, session_id: _Optional[str] = ...) -> None: ...

class GetSessionResponse(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: Session
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ...) -> None: ...

class ListSessionsRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "tags")
    class TagsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    tags: _containers.ScalarMap[str, str]
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., tags: _Optional[_Mapping[str, str]] = ...) -> None: ...

class ListSessionsResponse(_message.Message):
    __slots__ = ("sessions", "next_page_token")
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    sessions: _containers.RepeatedCompositeFieldContainer[Session]
    next_page_token: str
    def __init__(self, sessions: _Optional[_Iterable[_Union[Session, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class UpdateSessionRequest(_message.Message):
    __slots__ = ("session_id", "session_uid", "changes", "update_mask")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_UID_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    UPDATE_MASK_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    session_uid: str
    changes: SessionChanges
    update_mask: _field_mask_pb2.FieldMask
    def __init__(self, session_id: _Optional[str] = ..., session_uid: _Optional[str] = ..., changes: _Optional[_Union[SessionChanges, _Mapping]] = ..., update_mask: _Optional[_Union[_field_mask_pb2.FieldMask, _Mapping]] = ...) -> None: ...

class SessionChanges(_message.Message):
    __slots__ = ("learning", "learning_rate", "tags", "limits")
    class TagsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    LEARNING_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    learning: bool
    learning_rate: float
    tags: _containers.ScalarMap[str, str]
    limits: SessionLimits
    def __init__(self, learning: bool = ..., learning_rate: _Optional[float] = ..., tags: _Optional[_Mapping[str, str]] = ..., limits: _Optional[_Union[SessionLimits, _Mapping]] = ...) -> None: ...

class UpdateSessionResponse(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: Session
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ...) -> None: ...

class DeleteSessionRequest(_message.Message):
    __slots__ = ("session_id", "session_uid")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_UID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    session_uid: str
    def __init__(self, session_id: _Optional[str] = ..., session_uid: _Optional[str] = ...) -> None: ...

class DeleteSessionResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ForkSessionRequest(_message.Message):
    __slots__ = ("session_id", "session_uid", "fork_id", "changes", "fork_mask")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_UID_FIELD_NUMBER: _ClassVar[int]
    FORK_ID_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    FORK_MASK_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    session_uid: str
    fork_id: str
    changes: SessionChanges
    fork_mask: _field_mask_pb2.FieldMask
    def __init__(self, session_id: _Optional[str] = ..., session_uid: _Optional[str] = ..., fork_id: _Optional[str] = ..., changes: _Optional[_Union[SessionChanges, _Mapping]] = ..., fork_mask: _Optional[_Union[_field_mask_pb2.FieldMask, _Mapping]] = ...) -> None: ...

class ForkSessionResponse(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: Session
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ...) -> None: ...

class ExportSessionRequest(_message.Message):
    __slots__ = ("session_id", "session_uid", "format")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_UID_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    session_uid: str
    format: ExportFormat
    def __init__(self, session_id: _Optional[str] = ..., session_uid: _Optional[str] = ..., format: _Optional[_Union[ExportFormat, str]] = ...) -> None: ...

class ExportSessionResponse(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class ImportTerms(_message.Message):
    __slots__ = ("session_id", "format", "config", "tags", "learning", "limits")
    class TagsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    LEARNING_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    format: ExportFormat
    config: _config_pb2.SessionConfig
    tags: _containers.ScalarMap[str, str]
    learning: bool
    limits: SessionLimits
    def __init__(self, session_id: _Optional[str] = ..., format: _Optional[_Union[ExportFormat, str]] = ..., config: _Optional[_Union[_config_pb2.SessionConfig, _Mapping]] = ..., tags: _Optional[_Mapping[str, str]] = ..., learning: bool = ..., limits: _Optional[_Union[SessionLimits, _Mapping]] = ...) -> None: ...

class ImportSessionRequest(_message.Message):
    __slots__ = ("terms", "data")
    TERMS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    terms: ImportTerms
    data: bytes
    def __init__(self, terms: _Optional[_Union[ImportTerms, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class ImportSessionResponse(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: Session
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ...) -> None: ...
