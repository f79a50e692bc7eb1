"""Session configuration as plain mappings, by the contract's own descriptors: no field is listed here a second time.

An enum value is its short name in lower case ("lstm" for CELL_LSTM). A list of messages with two fields is a mapping
from the first of each to its second: `categories` is {"state": ["idle", "run"]}, and {"digit": 10} means the symbols
"0" to "9". Any other is a list of mappings: `learners` is [{"hidden": 16}, {"cell": "gru"}].
Ranges are the server's business; names, types and choices are checked here, where the mistake was made.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from bptt.v1 import config_pb2

_WHOLE = {
    FieldDescriptor.TYPE_UINT32: range(2**32),
    FieldDescriptor.TYPE_UINT64: range(2**64),
    FieldDescriptor.TYPE_INT64: range(-(2**63), 2**63),
}
SWITCH = {"on": True, "off": False, "true": True, "false": False}


def session_config(values: Mapping[str, Any]) -> config_pb2.SessionConfig:
    """The message for a mapping by field name; None is a field left out. Raises TypeError or ValueError by name."""
    config = config_pb2.SessionConfig()
    _fill(config, values, "")
    return config


def as_mapping(message: Message) -> dict[str, Any]:
    """The fields that are set, by name, ready for `session_config`."""
    values: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.message_type is not None and _repeated(value):
            values[field.name] = _as_table(field, value) if _is_table(field) else [as_mapping(item) for item in value]
        elif field.message_type is not None:
            values[field.name] = as_mapping(value)
        elif field.enum_type is not None:
            values[field.name] = _short_names(field.enum_type)[value]
        else:
            values[field.name] = list(value) if _repeated(value) else value
    return values


def setting(text: str) -> dict[str, Any]:
    """The mapping for one `key=value` (`hidden=64`, `learner.hidden=64`, `cell=gru`, `seasons=24`, `guard=off`,
    `categories=state:idle|run,digit:10`, `learners=[{"hidden": 16}, {"cell": "gru"}]`). Raises ValueError.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ValueError(f"{text!r} is not a setting; allowed: key=value")
    owner, name = _find(key)
    field = owner.DESCRIPTOR.fields_by_name[name]
    if field.message_type is not None and _is_table(field):
        return {name: dict(_parse_entry(key, part) for part in value.split(","))}
    if field.message_type is not None:
        return {name: _parse_list(key, value)}
    listed = _repeated(getattr(owner(), name))
    parsed = [_parse(key, field, part) for part in (value.split(",") if listed else [value])]
    entry = {name: parsed if listed else parsed[0]}
    return entry if owner is config_pb2.SessionConfig else {"learner": entry}


def merged(base: Mapping[str, Any], entries: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """`base` with the later mappings laid over it, the learner field by field, categories channel by channel."""
    values = dict(base)
    for entry in entries:
        for name, value in entry.items():
            values[name] = {**values.get(name, {}), **value} if isinstance(value, Mapping) else value
    return values


def setting_names() -> list[str]:
    """Every key that `setting` knows, the learner's without their prefix."""
    session, learner = config_pb2.SessionConfig.DESCRIPTOR, config_pb2.LearnerConfig.DESCRIPTOR
    return [f.name for f in session.fields if f.name != "learner"] + [f.name for f in learner.fields]


def _find(key: str) -> tuple[Any, str]:
    prefix, _, name = key.rpartition(".")
    learner = config_pb2.LearnerConfig
    owners: dict[str, tuple[Any, ...]] = {"": (config_pb2.SessionConfig, learner), "learner": (learner,)}
    for owner in owners.get(prefix, ()):
        field = owner.DESCRIPTOR.fields_by_name.get(name)
        if field is not None and field.name != "learner":
            return owner, name
    raise ValueError(f"{key!r} is not a setting; allowed: {', '.join(setting_names())}")


def _parse(key: str, field: Any, text: str) -> Any:
    if field.enum_type is not None or field.type == FieldDescriptor.TYPE_STRING:
        return text
    if field.type == FieldDescriptor.TYPE_BOOL:
        if text not in SWITCH:
            raise ValueError(f"{key} is {text!r}; allowed: {', '.join(SWITCH)}")
        return SWITCH[text]
    kind, allowed = (int, "a whole number") if field.type in _WHOLE else (float, "a number")
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{key} is {text!r}; allowed: {allowed}") from None


def _parse_entry(key: str, text: str) -> tuple[str, list[str] | int]:
    name, colon, symbols = text.rpartition(":")
    if not colon or not name or not symbols:
        raise ValueError(f"{key} is {text!r}; allowed: CHANNEL:A|B|C, or CHANNEL:N for the symbols 0 to N-1")
    return name, int(symbols) if symbols.isdecimal() else symbols.split("|")


def _parse_list(key: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        example = '[{"hidden": 16}, {"cell": "gru"}]'
        raise ValueError(f"{key} is {text!r}; allowed: a list of mappings as JSON, e.g. {example}") from None


def _fill(message: Message, values: Mapping[str, Any], prefix: str) -> None:
    fields = message.DESCRIPTOR.fields_by_name
    for name, value in values.items():
        path = f"{prefix}{name}"
        if name not in fields:
            raise ValueError(f"{path!r} is not a field; allowed: {', '.join(fields)}")
        if value is not None:
            _set(message, fields[name], value, path)


def _set(message: Message, field: Any, value: Any, path: str) -> None:
    current = getattr(message, field.name)
    if field.message_type is not None and _repeated(current):
        if _is_table(field):
            _set_entries(current, field, value, path)
        else:
            for i, item in enumerate(_listed(value, path)):
                _fill_whole(current.add(), item, f"{path}[{i}]")
    elif field.message_type is not None:
        _fill_whole(current, value, path)
    elif _repeated(current):
        current.extend([_checked(field, item, path) for item in _listed(value, path)])
    else:
        setattr(message, field.name, _checked(field, value, path))


def _fill_whole(message: Message, value: Any, path: str) -> None:
    if not isinstance(value, Mapping):
        raise TypeError(f"{path} is {value!r}; allowed: a mapping by field name")
    message.SetInParent()
    _fill(message, value, f"{path}.")


def _listed(value: Any, path: str) -> Iterable[Any]:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise TypeError(f"{path} is {value!r}; allowed: a list")
    return value


def _set_entries(entries: Any, field: Any, value: Any, path: str) -> None:
    key, listed = _entry(field)
    if not isinstance(value, Mapping):
        raise TypeError(f"{path} is {value!r}; allowed: a mapping from {key.name} to {listed.name}")
    for name, items in value.items():
        whole = hasattr(items, "__index__") and not isinstance(items, bool)
        counted = [str(i) for i in range(operator.index(items))] if whole else items
        _fill(entries.add(), {key.name: name, listed.name: counted}, f"{path}[{name}].")


def _is_table(field: Any) -> bool:
    """Whether the messages that the field lists are a name and what belongs to it."""
    return len(field.message_type.fields) == 2


def _entry(field: Any) -> tuple[Any, Any]:
    """The two fields of such a message."""
    key, listed = field.message_type.fields
    return key, listed


def _as_table(field: Any, value: Any) -> dict[str, list[Any]]:
    key, listed = _entry(field)
    return {getattr(item, key.name): list(getattr(item, listed.name)) for item in value}


def _checked(field: Any, value: Any, path: str) -> Any:
    if field.enum_type is not None:
        numbers = {name: number for number, name in _short_names(field.enum_type).items()}
        if value not in list(numbers):
            raise ValueError(f"{path} is {value!r}; allowed: {', '.join(numbers)}")
        return numbers[value]
    if field.type == FieldDescriptor.TYPE_BOOL:
        if not isinstance(value, bool):
            raise TypeError(f"{path} is {value!r}; allowed: True, False")
        return value
    if field.type in _WHOLE:
        whole = _WHOLE[field.type]
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise TypeError(f"{path} is {value!r}; allowed: a whole number")
        if value not in whole:
            raise ValueError(f"{path} is {value!r}; allowed: {whole.start}..{whole.stop - 1} at most")
        return int(value)
    kind, allowed = (str, "text") if field.type == FieldDescriptor.TYPE_STRING else (float, "a number")
    if isinstance(value, str) is not (kind is str):
        raise TypeError(f"{path} is {value!r}; allowed: {allowed}")
    return kind(value)


def _short_names(enum: Any) -> dict[int, str]:
    """Number → short name, the unspecified zero left out: CELL_LSTM is "lstm"."""
    zero = enum.values_by_number[0].name
    prefix = zero.removesuffix("UNSPECIFIED")
    return {value.number: value.name.removeprefix(prefix).lower() for value in enum.values if value.number}


def _repeated(value: Any) -> bool:
    return hasattr(value, "extend")
