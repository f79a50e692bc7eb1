"""Histograms that take columns say on the page what the library's say of the same values one by one."""

from __future__ import annotations

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from server.tallies import Count, Tally

BUCKETS = (0.1, 0.5, 1.0, 2.5)


def page(registry: CollectorRegistry) -> list[str]:
    return [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]


def test_a_column_counts_as_its_numbers_do_one_by_one() -> None:
    values = np.concatenate([np.random.default_rng(0).exponential(1, 200).round(3), BUCKETS, [0.0, -1.0, 1e30]])
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    one, other = Tally("t", "text", BUCKETS, ours), Histogram("t", "text", buckets=BUCKETS, registry=theirs)
    one.observe_all(values[:100])
    for value in values[100:150].tolist():
        one.observe(value)
    one.observe_all(values[150:])
    for value in values.tolist():
        other.observe(value)
    assert page(ours)[:-1] == page(theirs)[:-1]  # the sum differs by the order of adding


def test_children_are_named_by_the_label_and_counted_apart() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    one = Tally("t", "text", BUCKETS, ours, "lag", ("0", "window"))
    other = Histogram("t", "text", ["lag"], buckets=BUCKETS, registry=theirs)
    for child, name in enumerate(("0", "window")):
        one.observe_all(np.array([0.5, 1.5, 4.0]), child)
        for value in (0.5, 1.5, 4.0):
            other.labels(name).observe(value)
    assert page(ours) == page(theirs)


def test_what_is_not_finite_is_left_out() -> None:
    registry = CollectorRegistry()
    one = Tally("t", "text", BUCKETS, registry)
    one.observe_all(np.array([np.nan, 1.0, np.inf, -np.inf], np.float32))
    one.observe(np.nan)
    one.observe_all(np.zeros(0))
    one.observe_all(np.full(3, np.nan))
    assert registry.get_sample_value("t_count") == registry.get_sample_value("t_sum") == 1


def test_a_count_is_on_the_page_when_it_is_told_and_once() -> None:
    registry = CollectorRegistry()
    count = Count(Counter("c", "text", registry=registry))
    for number in (1, 5, 0):
        count.add(number)
    assert registry.get_sample_value("c_total") == 0
    count.tell()
    count.tell()
    assert registry.get_sample_value("c_total") == 6
