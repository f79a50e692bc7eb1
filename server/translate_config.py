"""Configurations, protobuf ↔ plain values: every field and enum by its name, which are the same on both sides.

The descriptors of the messages are the list of what there is, so that nothing is listed twice. An enum value is known
to the rest of the server by its name in lower case without its enum's prefix: CELL_LSTM is "lstm".
"""

from __future__ import annotations

import functools
from typing import Any

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from bptt.v1 import config_pb2
from bptt_core import Categorical, LearnerConfig, SessionConfig
from server.errors import invalid_field


def enum_name(field: str, kind: EnumDescriptor, number: int, absent: str = "") -> str:
    """The name of an enum's value; `absent`: that of the unspecified one. Raises Refusal."""
    names = _names(kind)
    if number and number not in names:
        raise invalid_field(field, number, ", ".join(kind.values_by_number[known].name for known in names))
    return names[number] if number else absent


def plain(message: config_pb2.SessionConfig) -> tuple[SessionConfig, set[str]]:
    """A configuration, not validated, and the paths of the fields that were set. Raises Refusal."""
    session = _set_fields(message, "config.")
    stated = {f"config.{name}" for name in session}
    if "learner" in session:
        learner = _set_fields(message.learner, "config.learner.")
        stated |= {f"config.learner.{name}" for name in learner}
        session["learner"] = LearnerConfig(**learner)
    if "learners" in session:
        several = enumerate(message.learners)
        session["learners"] = tuple(LearnerConfig(**_set_fields(one, f"config.learners[{k}].")) for k, one in several)
    if "categories" in session:
        session["categories"] = tuple(Categorical(c.channel, tuple(c.symbols)) for c in session["categories"])
    return SessionConfig(**{"features": (), **session}), stated


def wire(config: SessionConfig, learning_rate: float | None) -> config_pb2.SessionConfig:
    """A configuration as clients see it, with the learning rate of a single learner that is in force."""
    session = _fields(config, config_pb2.SessionConfig())
    if config.learner is not None:
        session["learner"] = _learner(config.learner)
        session["learner"].learning_rate = learning_rate
    session["learners"] = [_learner(one) for one in config.learners]
    session["categories"] = [config_pb2.Categorical(channel=c.channel, symbols=c.symbols) for c in config.categories]
    return config_pb2.SessionConfig(**session)


def _learner(config: LearnerConfig) -> config_pb2.LearnerConfig:
    return config_pb2.LearnerConfig(**_fields(config, config_pb2.LearnerConfig()))


def _set_fields(message: Message, path: str) -> dict[str, Any]:
    """The fields that were set, by name: enums as names, lists as tuples."""
    return {entry.name: _value(entry, value, path + entry.name) for entry, value in message.ListFields()}


def _value(entry: FieldDescriptor, value: Any, path: str) -> Any:
    if entry.enum_type is not None:
        return enum_name(path, entry.enum_type, value)
    return value if isinstance(value, str | int | float | Message) else tuple(value)


def _fields(values: SessionConfig | LearnerConfig, kind: Message) -> dict[str, Any]:
    """The fields of such a message by name; a value that is None is absent."""
    entries: Any = kind.DESCRIPTOR.fields
    found = {entry.name: (entry.enum_type, getattr(values, entry.name)) for entry in entries}
    return {
        name: value if enum is None else _numbers(enum)[value]
        for name, (enum, value) in found.items()
        if value is not None
    }


def _numbers(kind: EnumDescriptor) -> dict[str, int]:
    return {name: number for number, name in _names(kind).items()}


@functools.cache
def _names(kind: EnumDescriptor) -> dict[int, str]:
    """Short names of an enum's values by number, the unspecified one left out."""
    prefix = kind.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return {value.number: value.name.removeprefix(prefix).lower() for value in kind.values if value.number}
