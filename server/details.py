"""A refusal of a whole call as google.rpc details: ErrorInfo always, the others where the error table says so."""

from __future__ import annotations

from typing import Final

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from server.errors import Detail, Refusal

DOMAIN: Final = "bptt.v1"


def status(refusal: Refusal) -> grpc.Status:
    """What the call ends with."""
    row, facts = refusal.row, refusal.facts
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=refusal.reason, domain=DOMAIN, metadata=facts),
    ]
    if row.detail is Detail.FIELD:
        violation = error_details_pb2.BadRequest.FieldViolation(field=facts["field"], description=refusal.message)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    elif row.detail is Detail.QUOTA:
        over = error_details_pb2.QuotaFailure.Violation(subject=facts.get("limit", ""), description=refusal.message)
        details.append(error_details_pb2.QuotaFailure(violations=[over]))
    elif row.detail is Detail.SESSION:
        details.append(
            error_details_pb2.ResourceInfo(
                resource_type="bptt.v1.Session",
                resource_name=facts.get("session_id", ""),
                description=refusal.message,
            )
        )
    if row.retry_s is not None:
        wait = error_details_pb2.RetryInfo()
        wait.retry_delay.FromNanoseconds(int(row.retry_s * 1e9))
        details.append(wait)
    return rpc_status.to_status(
        status_pb2.Status(code=row.code.value[0], message=refusal.message, details=map(_packed, details))
    )


def _packed(detail: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed
