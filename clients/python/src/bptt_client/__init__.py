"""Client of the bptt service: send events, get forecasts, watch a recurrent network learn.

    from bptt_client import Client

    with Client("localhost:50051") as client:
        pump = client.create_session("pump-7", features=["temp", "load"], targets=["temp"], horizon=24)
        reply = pump.learn_one({"temp": 71.2, "load": 0.4})
        print(reply.forecast["temp"].mean)

`AsyncClient` has the same names for asyncio. Failures are exceptions of `bptt_client.errors`, all of them `BpttError`.
"""

from bptt_client.aio import AsyncClient, AsyncSessionHandle, AsyncWatch
from bptt_client.aio_stream import AsyncStream
from bptt_client.client import Client, SessionHandle, Watch
from bptt_client.errors import (
    AlreadyStarted,
    BpttError,
    ClientClosed,
    CreditExceeded,
    DeadlineExceeded,
    InvalidRequest,
    LabelConflict,
    LabelError,
    LabelTooOld,
    LabelUnknownSequence,
    LimitReached,
    MessageTooLarge,
    NoEvents,
    Overloaded,
    ProtocolError,
    SequenceConflict,
    SequenceError,
    SequenceGap,
    SequenceTooOld,
    ServerDraining,
    ServerError,
    SessionExists,
    SessionNotFound,
    SessionRewound,
    SessionSuperseded,
    UidMismatch,
    Unavailable,
)
from bptt_client.feed import Resume
from bptt_client.replies import (
    BatchResult,
    Forecast,
    LabelResult,
    LearnerReset,
    Outcomes,
    Reply,
    Summary,
    TargetForecast,
    Update,
    WarmStartResult,
)
from bptt_client.session import Expert, Scores, Session, UpdateCounts
from bptt_client.stream import Stream

__all__ = [
    "AlreadyStarted",
    "AsyncClient",
    "AsyncSessionHandle",
    "AsyncStream",
    "AsyncWatch",
    "BatchResult",
    "BpttError",
    "Client",
    "ClientClosed",
    "CreditExceeded",
    "DeadlineExceeded",
    "Expert",
    "Forecast",
    "InvalidRequest",
    "LabelConflict",
    "LabelError",
    "LabelResult",
    "LabelTooOld",
    "LabelUnknownSequence",
    "LearnerReset",
    "LimitReached",
    "MessageTooLarge",
    "NoEvents",
    "Outcomes",
    "Overloaded",
    "ProtocolError",
    "Reply",
    "Resume",
    "Scores",
    "SequenceConflict",
    "SequenceError",
    "SequenceGap",
    "SequenceTooOld",
    "ServerDraining",
    "ServerError",
    "Session",
    "SessionExists",
    "SessionHandle",
    "SessionNotFound",
    "SessionRewound",
    "SessionSuperseded",
    "Stream",
    "Summary",
    "TargetForecast",
    "UidMismatch",
    "Unavailable",
    "Update",
    "UpdateCounts",
    "WarmStartResult",
    "Watch",
]
