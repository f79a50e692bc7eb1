"""A CSV file as columns of numbers, symbols and times. Refuses what it does not understand by file, line and column.

A column without a single number that holds text is categorical: its values are positions in the list of its symbols.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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


MOST_SYMBOLS = 256
_MOST_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Series:
    """The rows of a file in order: `values` float64 [row, feature] and `label_values` [row, label], NaN where missing;
    one time per row, or None. `symbols` has the categorical columns, whose values are positions in them.
    """

    features: tuple[str, ...]
    values: NDArray[np.float64]
    times_ns: list[int] | None
    notes: tuple[str, ...]
    labels: tuple[str, ...]
    label_values: NDArray[np.float64]
    symbols: Mapping[str, tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.values)

    def columns(self, names: Sequence[str]) -> NDArray[np.float64]:
        """Some of the columns, [row, name]."""
        every = (*self.features, *self.labels)
        return np.hstack([self.values, self.label_values])[:, [every.index(name) for name in names]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which columns: `features` is "all" or names joined by commas, `labels` such names or None; `categorical` names
    columns to read as text whatever they hold, `symbols` those of some in an order of their own.
    """

    features: str = "all"
    labels: str | None = None
    categorical: str | None = None
    symbols: Mapping[str, Sequence[str]] = field(default_factory=dict)


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

    def texts(self, name: str) -> list[str]:
        """The column with cells of nothing but spaces as they are: they may be symbols, unless the file pads cells."""
        i = self.header.index(name)
        cells = [row[i] for row in self.rows]
        padded = any(cell.strip() and cell != cell.strip() for cell in cells)
        return [cell.strip() if padded else cell for cell in cells]


def read(path: Path, wanted: Wanted, time: str | None, time_format: str | None, missing: Sequence[str]) -> Series:
    """Reads the file; see `bptt replay --help`. Raises Problem."""
    table = _read_table(path)
    if time is not None:
        _known(path, table.header, [time], "--time")
    elif time_format is not None:
        raise Problem("--time-format without --time; allowed: both, or neither")
    is_missing = _missing_test(missing)
    labels = _listed(table, wanted.labels, time, "--labels")
    as_text = {*_listed(table, wanted.categorical, time, "--categorical"), *wanted.symbols}
    features, notes = _choose(table, wanted.features, {time, *labels}, as_text, is_missing)
    symbols: dict[str, tuple[str, ...]] = {}
    for name in (*features, *labels):
        if name in as_text or _holds_text_only(table, name, is_missing):
            symbols[name] = _symbols(table, name, wanted.symbols.get(name), is_missing)

    def numbers(names: Sequence[str]) -> NDArray[np.float64]:
        columns = [_positions(table, n, symbols[n], is_missing) if n in symbols else _numbers(table, n, is_missing)
                   for n in names]  # fmt: skip
        return np.column_stack(columns) if columns else np.empty((len(table.rows), 0))

    notes += [f"column {name!r} holds text and is categorical: {len(own)} symbols" for name, own in symbols.items()]
    times = None if time is None else _times(table, time, time_format)
    return Series(tuple(features), numbers(features), times, tuple(notes), tuple(labels), numbers(labels), symbols)


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


def _listed(table: _Table, text: str | None, time: str | None, flag: str) -> list[str]:
    """The columns that a flag names."""
    if text is None:
        return []
    names = names_of(text, table.path, table.header, flag) if text != "all" else []
    if not names or time in names:
        raise Problem(f"{flag} is {text!r}; allowed: names of columns other than --time, joined by commas")
    return names


def _choose(
    table: _Table, features: str, taken: set[str | None], as_text: set[str], is_missing: Callable[[str], bool]
) -> tuple[list[str], list[str]]:
    """Names of the features, and notes on what was left out. `taken`: columns that are something else."""
    if features != "all":
        names = names_of(features, table.path, table.header, "--features")
        for name in taken.intersection(names):
            raise Problem(f"--features names {name!r}, the column of times or a label; allowed: other columns")
        return names, []
    names, notes = [], []
    for name in table.header:
        if name in taken:
            continue
        if name in as_text or _holds_a_number(table, name, is_missing) or _repeats(table, name, is_missing):
            names.append(name)
        else:
            notes.append(f"column {name!r} holds no number and is left out")
    if not names:
        raise Problem(f"{table.path}: no column holds numbers; allowed: at least one")
    return names, notes


def _holds_a_number(table: _Table, name: str, is_missing: Callable[[str], bool]) -> bool:
    return any(_number(cell) is not None and not is_missing(cell) for cell in table.column(name))


def _holds_text_only(table: _Table, name: str, is_missing: Callable[[str], bool]) -> bool:
    return not _holds_a_number(table, name, is_missing) and not all(map(is_missing, table.column(name)))


def _repeats(table: _Table, name: str, is_missing: Callable[[str], bool]) -> bool:
    """Whether a column of text looks like symbols, not like names or remarks: a few texts that come again."""
    cells = [cell for cell in table.texts(name) if not is_missing(cell)]
    return 2 <= len(set(cells)) <= min(MOST_SYMBOLS, len(cells) // 2)


def _symbols(
    table: _Table, name: str, given: Sequence[str] | None, is_missing: Callable[[str], bool]
) -> tuple[str, ...]:
    """The symbols of a column: those given, or all it holds, sorted."""
    found = {cell for cell in table.texts(name) if not is_missing(cell)}
    if given is None and not 2 <= len(found) <= MOST_SYMBOLS:
        allowed = f"2..{MOST_SYMBOLS}, or a column of numbers; or leave it out with --features"
        raise Problem(f"{table.path}: {name} holds {len(found)} different texts; allowed: {allowed}")
    return tuple(sorted(found) if given is None else given)


def _positions(
    table: _Table, name: str, symbols: Sequence[str], is_missing: Callable[[str], bool]
) -> NDArray[np.float64]:
    place = {symbol: i for i, symbol in enumerate(symbols)}
    values = np.full(len(table.rows), np.nan)
    for i, cell in enumerate(table.texts(name)):
        if cell in place:
            values[i] = place[cell]
        elif not is_missing(cell):
            shown = ", ".join(map(repr, symbols[:_MOST_SHOWN])) + (", …" if len(symbols) > _MOST_SHOWN else "")
            raise Problem(f"{table.at(i)}: {name} is {cell!r}; allowed: {shown}, or nothing")
    return values


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
            allowed = "a finite number, or nothing; see --missing, --categorical, or leave it out with --features"
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
