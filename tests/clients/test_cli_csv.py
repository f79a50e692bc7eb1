"""What the command line reads from a CSV file, and what it says about a file it cannot read."""

from __future__ import annotations

import math

import pytest

from bptt_client.cli import csvfile
from bptt_client.cli.problems import Problem

DAY = 86_400 * 10**9


@pytest.fixture
def read(tmp_path):
    def reader(text, features="all", time=None, time_format=None, missing=(), **columns):
        path = tmp_path / "data.csv"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return csvfile.read(path, csvfile.Wanted(features, **columns), time, time_format, missing)

    return reader


def test_numbers_times_and_names(read):
    series = read("date,a,b\n2020-01-01 00:00:00,1,2.5\n2020-01-02 00:00:00,-3e2,4\n", time="date")
    assert series.features == ("a", "b")
    assert series.values.tolist() == [[1.0, 2.5], [-300.0, 4.0]]
    assert series.times_ns[1] - series.times_ns[0] == DAY
    assert series.notes == ()


@pytest.mark.parametrize("cell", ["", "NaN", "nan", "null", "-200", "-200.0", " -200 ", "gone"])
def test_missing_values(read, cell):
    series = read(f"a,b\n1,2\n{cell},3\n", missing=["-200", "gone"])
    assert math.isnan(series.values[1, 0])
    assert series.values[1, 1] == 3.0


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("2020-01-02", "2020-01-03"),
        ("2020-01-02T10:00:00Z", "2020-01-03T10:00:00Z"),
        ("2020-01-02 10:00:00+02:00", "2020-01-03 10:00:00+02:00"),
        ("2020/1/2 18:00", "2020/1/3 18:00"),
        ("1/2/20 0:00", "1/3/20 0:00"),
        ("1/2/2020 0:00:30", "1/3/2020 0:00:30"),
        ("01/02/2020", "01/03/2020"),
    ],
)
def test_time_formats_are_found(read, first, second):
    series = read(f"t,a\n{first},1\n{second},2\n", time="t")
    assert series.times_ns[1] - series.times_ns[0] == DAY
    assert series.times_ns[0] // DAY == 18263


def test_month_first_is_chosen_for_the_whole_file_even_if_only_a_late_row_tells(read):
    series = read("t,a\n1/2/20 0:00,1\n1/13/20 0:00,2\n", time="t")
    assert series.times_ns[1] - series.times_ns[0] == 11 * DAY


def test_a_given_time_format_wins(read):
    series = read("t,a\n2.1.2020,1\n13.1.2020,2\n", time="t", time_format="%d.%m.%Y")
    assert series.times_ns[1] - series.times_ns[0] == 11 * DAY


def test_all_leaves_out_what_holds_no_number_and_says_so(read):
    series = read("date,a,empty\nmon,1,\ntue,2,\n")
    assert series.features == ("a",)
    assert series.notes == (
        "column 'date' holds no number and is left out",
        "column 'empty' holds no number and is left out",
    )


def test_a_bad_cell_does_not_matter_in_a_column_that_is_not_asked_for(read):
    assert read("a,b\n1,x\n2,3\n", features="a").values.tolist() == [[1.0], [2.0]]


def test_columns_in_the_order_asked_for_and_quoted_or_marked_files(read):
    assert read("\ufeffa,b\n1,2\n\n", features="b,a").values.tolist() == [[2.0, 1.0]]
    assert read('"a","b"\n"1","2"\n').values.tolist() == [[1.0, 2.0]]


# Text.


def test_a_column_of_text_that_comes_again_is_categorical(read):
    series = read("a,state,remark\n1,run,x\n2,idle,y\n3,run,z\n4,,\n5,idle,w\n")
    assert series.features == ("a", "state")
    assert series.symbols == {"state": ("idle", "run")}
    assert series.values[:, 1].tolist() == pytest.approx([1.0, 0.0, 1.0, math.nan, 0.0], nan_ok=True)
    assert series.notes == (
        "column 'remark' holds no number and is left out",
        "column 'state' holds text and is categorical: 2 symbols",
    )


def test_a_column_that_is_named_is_text_however_often_it_comes_and_a_label_is_no_feature(read):
    text = "a,state,y\n1,run,p\n2,idle,q\n"
    assert read(text, features="state").symbols == {"state": ("idle", "run")}
    series = read(text, labels="y")
    assert (series.features, series.labels, series.symbols) == (("a",), ("y",), {"y": ("p", "q")})
    assert series.label_values.tolist() == [[0.0], [1.0]]
    assert series.columns(["y", "a"]).tolist() == [[0.0, 1.0], [1.0, 2.0]]


def test_numbers_are_text_where_that_is_asked_for(read):
    text = "char,d\nr,1\n2,0\nr,1\n"
    with pytest.raises(Problem, match="line 2: char is 'r'; allowed: a finite number"):
        read(text)
    assert read(text, categorical="char").symbols == {"char": ("2", "r")}
    series = read(text, categorical="char", symbols={"d": ["0", "1", "2"]})
    assert series.symbols == {"char": ("2", "r"), "d": ("0", "1", "2")}
    assert series.values.tolist() == [[1.0, 1.0], [0.0, 0.0], [1.0, 1.0]]


def test_symbols_that_are_given_keep_their_order_and_are_all_there_are(read):
    text = "s\nrun\nidle\n"
    assert read(text, symbols={"s": ["run", "stop", "idle"]}).values.tolist() == [[0.0], [2.0]]
    with pytest.raises(Problem, match="line 3: s is 'idle'; allowed: 'run', 'stop', or nothing"):
        read(text, symbols={"s": ["run", "stop"]})


def test_a_space_is_a_symbol_unless_the_file_pads_its_cells(read):
    assert read('c\na\n" "\nb\na\n" "\nb\n').symbols == {"c": (" ", "a", "b")}
    padded = read("x, c\n1, a\n2, \n3, b\n4, a\n5, b\n")
    assert padded.symbols == {"c": ("a", "b")}
    assert math.isnan(padded.values[1, 1])


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("s\n" + "".join(f"t{i}\n" for i in range(257)), {"features": "s"}, "s holds 257 different texts"),
        ("s,a\nx,1\nx,2\n", {"features": "s"}, "s holds 1 different texts; allowed: 2..256"),
        ("s,a\nx,1\n", {"labels": "z"}, "--labels names 'z', which is not a column"),
        ("s,a\nx,1\n", {"labels": "all"}, "--labels is 'all'; allowed: names of columns"),
        ("t,a\n2020-01-01,1\n", {"time": "t", "labels": "t"}, "--labels is 't'; allowed: names of columns other"),
        ("s,a\nx,1\n", {"labels": "a", "features": "s,a"}, "--features names 'a', the column of times or a label"),
    ],
)
def test_what_is_no_column_of_symbols_or_labels_is_named(read, text, options, words):
    with pytest.raises(Problem) as caught:
        read(text, **options)
    assert words in str(caught.value)


# What cannot be read.


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("", {}, "the file is empty"),
        ("\n\n", {}, "the file is empty"),
        ("a,b\n", {}, "no rows after the header"),
        ("a,b\n1,2\n3\n", {}, "line 3: 1 values; allowed: 2"),
        ("a,b\n1,2\n3,4,5\n", {}, "line 3: 3 values; allowed: 2"),
        ("a,b\nx,y\n", {}, "no column holds numbers"),
        ("a,b\n1,2\nx,4\n", {}, "line 3: a is 'x'; allowed: a finite number"),
        ("a,b\n1,inf\n1,2\n", {}, "line 2: b is 'inf'"),
        ("a,b\n1,1_000\n1,2\n", {}, "line 2: b is '1_000'"),
        ("1,2\n3,4\n", {}, "line 1: only numbers; allowed: a header"),
        ("a,\n1,2\n", {}, "column 2 has no name"),
        ("a,a\n1,2\n", {}, "two columns are called 'a'"),
        ("a,b\n1,2\n", {"features": "a,c"}, "--features names 'c', which is not a column; columns: a, b"),
        ("a,b\n1,2\n", {"features": "a,a"}, "names 'a' twice"),
        ("a,b\n1,2\n", {"time": "when"}, "--time names 'when', which is not a column"),
        ("t,b\n2020-01-01,2\n", {"time": "t", "features": "t,b"}, "the column of times"),
        ("a,b\n1,2\n", {"time_format": "%Y"}, "--time-format without --time"),
        ("t,b\n2020-01-01,1\nyesterday,2\n", {"time": "t"}, "line 3: t is 'yesterday'; allowed: ISO 8601"),
        ("t,b\n1/2/20 0:00,1\n13/2/20 0:00,2\n", {"time": "t"}, "line 3: t is '13/2/20 0:00'"),
        ("t,b\n2020-01-01,1\n,2\n", {"time": "t"}, "line 3: t is ''"),
        ("t,b\n2020-01-01,1\n", {"time": "t", "time_format": "%d.%m.%Y"}, r"t is '2020-01-01'; allowed: %d.%m.%Y"),
        ("t,b\n2020-01-02,1\n2020-01-01,2\n", {"time": "t"}, "line 3: t goes backwards"),
        ("t,b\n0001-01-01,1\n", {"time": "t"}, "line 2: t is '0001-01-01': the timestamp is 0001-01-01 00:00:00+00:00"),
        ("t,b\n2020-01-01,1\n9999-12-31,2\n", {"time": "t"}, "allowed: 1823-11-12T00:06:22Z..2116-02-20T23:53:38Z"),
        ("t,b\n9999-12-31T23:59:59-09:00,2\n", {"time": "t"}, "line 2: t is '9999-12-31T23:59:59-09:00'"),
        ("a;b\n1;2\n", {}, "separated by semicolons; allowed: by commas"),
        ("a;b\n1,5;2,5\n", {}, "separated by semicolons; allowed: by commas"),
        ("a\tb\n1\t2\n", {"features": "a"}, "separated by tabs; allowed: by commas"),
        (b"a,b\n\xff\xfe,2\n", {}, "not a CSV file in UTF-8"),
        ('a,b\n"1,2\n', {}, "not a CSV file"),
    ],
)
def test_what_cannot_be_read_is_named_by_file_line_and_what_is_allowed(read, text, options, words):
    with pytest.raises(Problem, match=r"data\.csv|--(features|time-format)") as caught:
        read(text, **options)
    assert words in str(caught.value)


def test_one_column_may_have_any_name(read):
    assert read("speed; m/s\n1\n2\n").features == ("speed; m/s",)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(Problem, match=r"none\.csv: No such file"):
        csvfile.read(tmp_path / "none.csv", csvfile.Wanted(), None, None, ())
