"""A CSV file as columns of numbers and times. Refuses what it does not understand by file, line and column."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bptt_client.cli.problems import Problem
from bptt_client.rows import encode_time

_OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
MISSING = frozenset({"", "nan", "null"})
# Tried in this order on every row of the file, after ISO 8601.
_YEAR_FIRST = ("%Y/%m/%d %H:%M", "%Y/%m/%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S", "%Y/%m/%d")
_MONTH_FIRST = (
    "%m/%d/%y %H:%M", "%m/%d/%Y %H:%M", "%m/%d/%y %H:%M:%S", "%m/%d/%Y %H:%M:%S", "%m/%d/%y", "%m/%d/%Y",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Series:
    """The rows of a file in order: `values` float64 [row, feature], NaN where missing; one time per row, or None."""

    features: tuple[str, ...]
    values: NDArray[np.float64]
    times_ns: list[int] | None
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.values)

    def columns(self, names: Sequence[str]) -> NDArray[np.float64]:
        """Some of the columns, [row, name]."""
        return self.values[:, [self.features.index(name) for name in names]]


@dataclass(frozen=True, slots=True)
class _Table:
    path: Path
    header: list[str]
    lines: list[int]
    rows: list[list[str]]

    def at(self, row: int) -> str:
        return f"{self.path}, line {self.lines[row]}"

    def column(self, name: str) -> list[str]:
        i = self.header.index(name)
        return [row[i].strip() for row in self.rows]


def read(path: Path, features: str, time: str | None, time_format: str | None, missing: Sequence[str]) -> Series:
    """Reads the file. `features` is "all" or names joined by commas; see `bptt replay --help` for the rest."""
    table = _read_table(path)
    if time is not None:
        _known(path, table.header, [time], "--time")
    elif time_format is not None:
        raise Problem("--time-format without --time; allowed: both, or neither")
    is_missing = _missing_test(missing)
    names, notes = _choose(table, features, time, is_missing)
    values = np.column_stack([_numbers(table, name, is_missing) for name in names])
    times = None if time is None else _times(table, time, time_format)
    return Series(tuple(names), values, times, tuple(notes))


def _read_table(path: Path) -> _Table:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            numbered = [(reader.line_num, row) for row in reader if row]
    except OSError as error:
        raise Problem(f"{path}: {error.strerror or error}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise Problem(f"{path}: not a CSV file in UTF-8 ({error})") from error
    if not numbered:
        raise Problem(f"{path}: the file is empty; allowed: a header line, then one row per event")
    header = [name.strip() for name in numbered[0][1]]
    _check_separator(path, [row for _, row in numbered[:2]])
    table = _Table(path, header, [line for line, _ in numbered[1:]], [row for _, row in numbered[1:]])
    _check_header(path, header)
    if not table.rows:
        raise Problem(f"{path}: no rows after the header; allowed: one row per event")
    for i, row in enumerate(table.rows):
        if len(row) != len(header):
            raise Problem(f"{table.at(i)}: {len(row)} values; allowed: {len(header)}, one per column of the header")
    return table


def _check_separator(path: Path, first_rows: list[list[str]]) -> None:
    for separator, word in _OTHER_SEPARATORS.items():
        if len(first_rows[0]) == 1 and all(any(separator in cell for cell in row) for row in first_rows):
            raise Problem(f"{path}: the values seem to be separated by {word}; allowed: by commas")


def _check_header(path: Path, header: list[str]) -> None:
    if all(_number(name) is not None for name in header):
        raise Problem(f"{path}, line 1: only numbers; allowed: a header with the names of the columns")
    for i, name in enumerate(header):
        if not name:
            raise Problem(f"{path}, line 1: column {i + 1} has no name; allowed: a name for every column")
        if name in header[:i]:
            raise Problem(f"{path}, line 1: two columns are called {name!r}; allowed: distinct names")


def _known(path: Path, header: Sequence[str], names: Sequence[str], flag: str) -> None:
    for name in names:
        if name not in header:
            raise Problem(f"{path}: {flag} names {name!r}, which is not a column; columns: {', '.join(header)}")


def names_of(text: str, path: Path, allowed: Sequence[str], flag: str) -> list[str]:
    """The columns that `text` ("all" or names joined by commas) selects among the allowed ones."""
    if text == "all":
        return list(allowed)
    names = [name.strip() for name in text.split(",")]
    _known(path, allowed, names, flag)
    for i, name in enumerate(names):
        if name in names[:i]:
            raise Problem(f"{flag} names {name!r} twice; allowed: distinct names")
    return names


def _choose(
    table: _Table, features: str, time: str | None, is_missing: Callable[[str], bool]
) -> tuple[list[str], list[str]]:
    others = [name for name in table.header if name != time]
    if features != "all":
        names = names_of(features, table.path, table.header, "--features")
        if time in names:
            raise Problem(f"--features names {time!r}, the column of times; allowed: other columns")
        return names, []
    names, notes = [], []
    for name in others:
        if any(_number(cell) is not None and not is_missing(cell) for cell in table.column(name)):
            names.append(name)
        else:
            notes.append(f"column {name!r} holds no number and is left out")
    if not names:
        raise Problem(f"{table.path}: no column holds numbers; allowed: at least one")
    return names, notes


def _missing_test(codes: Sequence[str]) -> Callable[[str], bool]:
    texts = {code.strip().lower() for code in codes} | MISSING
    numbers = {number for code in codes if (number := _number(code)) is not None}
    return lambda cell: cell.lower() in texts or (bool(numbers) and _number(cell) in numbers)


def _number(cell: str) -> float | None:
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if math.isfinite(number) and "_" not in cell else None


def _numbers(table: _Table, name: str, is_missing: Callable[[str], bool]) -> NDArray[np.float64]:
    values = np.empty(len(table.rows))
    for i, cell in enumerate(table.column(name)):
        number = math.nan if is_missing(cell) else _number(cell)
        if number is None:
            allowed = "a finite number, or nothing; see --missing CODE, or leave the column out with --features"
            raise Problem(f"{table.at(i)}: {name} is {cell!r}; allowed: {allowed}")
        values[i] = number
    return values


def _times(table: _Table, name: str, time_format: str | None) -> list[int]:
    cells = table.column(name)
    patterns = (*_YEAR_FIRST, *_MONTH_FIRST) if time_format is None else (time_format,)
    parsers = [_strptime(pattern) for pattern in patterns]
    if time_format is None:
        parsers.insert(0, datetime.fromisoformat)
    reached = 0
    for parse in parsers:
        times, good = _parse_all(table, name, cells, parse)
        if good == len(cells):
            return _ordered(table, name, times)
        reached = max(reached, good)
    allowed = time_format or "ISO 8601, year/month/day or month/day/year, H:M after it; see --time-format"
    raise Problem(f"{table.at(reached)}: {name} is {cells[reached]!r}; allowed: {allowed}")


def _strptime(pattern: str) -> Callable[[str], datetime]:
    return lambda cell: datetime.strptime(cell, pattern)  # noqa: DTZ007 - a time without a zone is UTC, see _parse_all


def _parse_all(
    table: _Table, name: str, cells: Sequence[str], parse: Callable[[str], datetime]
) -> tuple[list[int], int]:
    """Times in nanoseconds, and how many rows were understood before the first that was not."""
    times: list[int] = []
    for cell in cells:
        try:
            time = parse(cell)
        except ValueError:
            break
        try:
            number = encode_time(time if time.tzinfo is not None else time.replace(tzinfo=UTC))
        except ValueError as error:  # its range
            raise Problem(f"{table.at(len(times))}: {name} is {cell!r}: {error}") from error
        assert number is not None
        times.append(number)
    return times, len(times)


def _ordered(table: _Table, name: str, times: list[int]) -> list[int]:
    for i in range(1, len(times)):
        if times[i] < times[i - 1]:
            raise Problem(f"{table.at(i)}: {name} goes backwards; allowed: at least the time of the row before")
    return times
