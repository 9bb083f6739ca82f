"""Checks the kinds that the runner reports for values: `check_kinds.py RUNNER`.

Columns are printed in parts, like batches. If a value has different texts in two parts, because of the values beside it, the
kinds of these parts must differ: the receiver compares only kinds.
"""

import datetime
import decimal
import fractions
import random
import sys
import warnings

import numpy
import pandas
from runner import load

warnings.simplefilter("ignore")
runner = load(sys.argv[1])
draw = random.Random(2)
NUMBERS = [0, 1, 20, -3, 10**12]


def numbers(*more):
    return [draw.choice(NUMBERS + list(more)) for _ in range(12)]


def times(*forms):
    return [draw.choice(forms) for _ in range(12)]


DAY, HOUR, MILLI = "2018-10-01", "2018-10-01 10:30:00", "2018-10-01 10:30:00.250"
# Values as a function computes them. In each batch, pandas infers a type from the values in it.
LISTS = {
    "integers": lambda: numbers(),
    "integers and nothing": lambda: numbers(None),
    "integers and decimals": lambda: numbers(0.5),
    "decimals": lambda: [draw.choice([0.5, 1.0, 1e-7, 1e22]) for _ in range(12)],
    "decimals and nothing": lambda: [draw.choice([0.5, 1.0, float("nan")]) for _ in range(12)],
    "truth values": lambda: [draw.random() < 0.5 for _ in range(12)],
    "truth values and nothing": lambda: [draw.choice([True, False, None]) for _ in range(12)],
    "truth values and numbers": lambda: [draw.choice([True, False, 0.5]) for _ in range(12)],
    "words": lambda: [draw.choice(["a", "b", ""]) for _ in range(12)],
    "words and nothing": lambda: [draw.choice(["a", "b", None]) for _ in range(12)],
    "words and numbers": lambda: [draw.choice(["a", 1]) for _ in range(12)],
    "words and decimals": lambda: [draw.choice(["a", 1.5]) for _ in range(12)],
    "days": lambda: [pandas.Timestamp(t) for t in times(DAY)],
    "days and times": lambda: [pandas.Timestamp(t) for t in times(DAY, HOUR)],
    "times": lambda: [pandas.Timestamp(t) for t in times(DAY, HOUR, MILLI)],
    "times and nothing": lambda: [pandas.Timestamp(t) if t else pandas.NaT for t in times(DAY, MILLI, None)],
    "times with zones": lambda: [pandas.Timestamp(t, tz="Europe/Berlin") for t in times(DAY, HOUR, MILLI)],
    "durations": lambda: [pandas.Timedelta(s) for s in times("1 day", "1 hour", "250 ms", "-1 hour")],
    "dates": lambda: [draw.choice([datetime.date(2018, 10, 1), None]) for _ in range(12)],
    "exact numbers": lambda: [draw.choice([decimal.Decimal("1.50"), decimal.Decimal(2)]) for _ in range(12)],
    "fractions": lambda: [draw.choice([fractions.Fraction(1, 3), None]) for _ in range(12)],
    "numpy's integers": lambda: [draw.choice([numpy.int64(3), numpy.int8(-1)]) for _ in range(12)],
    "numpy's decimals": lambda: [draw.choice([numpy.float32(0.1), 0.5]) for _ in range(12)],
    "unsigned": lambda: [draw.choice([2**63, 1]) for _ in range(12)],
    "large": lambda: [draw.choice([2**70, 1]) for _ in range(12)],
    "complex": lambda: [draw.choice([1j, 1.0]) for _ in range(12)],
    "nothing": lambda: [None] * 12,
    "lists": lambda: [draw.choice([[1], [1, 2]]) for _ in range(12)],
}
# Types that a function may request, and values for them.
TYPES = {
    "float32": [0.1, 0.5, 1.0],
    "float16": [0.1, 0.5],
    "int8": [1, -1],
    "uint64": [2**63, 1],
    "Int64": [1, 20, None],
    "Int8": [1, None],
    "Float64": [0.5, 1.0, None],
    "Float32": [0.1, 1.0, None],
    "boolean": [True, False, None],
    "bool": [True, False],
    "string": ["a", "b", None],
    "object": [1, 2.5, "a", None, True],
    "category": ["a", "b"],
    "datetime64[s]": [DAY, HOUR],
    "datetime64[ns]": [DAY, MILLI],
    "timedelta64[ns]": ["1 day", "1 hour"],
    "period[M]": [DAY],
    "Sparse[int]": [1, 0],
    # Skipped without pyarrow.
    "int64[pyarrow]": [1, None],
    "double[pyarrow]": [0.5, 1.0, None],
    "string[pyarrow]": ["a", None],
}
CATEGORIES = {
    "categories of integers": [1, 2, None],
    "categories of decimals": [1.0, 2.5, None],
    "categories of truth values": [True, False, None],
    "categories of times": [pandas.Timestamp(DAY), pandas.Timestamp(HOUR), None],
    "categories of words": ["a", "b", None],
}


def columns():
    for name, make in LISTS.items():
        yield name, make(), lambda values: pandas.Series(values)
    for name, values in TYPES.items():
        values = [draw.choice(values) for _ in range(12)]
        yield name, values, lambda values, name=name: pandas.Series(values, dtype=name)
    for name, values in CATEGORIES.items():
        values = [draw.choice(values) for _ in range(12)]
        yield name, values, lambda values: pandas.Series(pandas.Categorical(values))


def printed(column):
    frame = pandas.DataFrame({"CLASSIFICATION": column})
    return frame.to_csv(header=False, index=False, lineterminator="\n", quoting=1).split("\n")[:-1]


def conflict(kinds):
    """Whether the receiver fails the job at these parts, as in `crates/protocol/src/schema.rs`."""
    known = set()
    for kind in kinds:
        new = set(kind) - {"text"}
        if new and known and new != known:
            return True
        known |= new
    return False


compared = stopped = 0
seen = {}
for _ in range(60):
    for name, values, make in columns():
        try:
            make(values)
        except (TypeError, ValueError, OverflowError, ImportError, NameError):
            # This column cannot be made.
            continue
        size = draw.randrange(1, 7)
        parts = [values[i : i + size] for i in range(0, len(values), size)]
        series = [make(part) for part in parts]
        kinds = [runner.kinds_of(pandas, part) for part in series]
        texts = {}
        for part, column in zip(parts, series):
            for value, text in zip(part, printed(column)):
                texts.setdefault((type(value), str(value)), set()).add(text)
        stops, same = conflict(kinds), all(len(forms) == 1 for forms in texts.values())
        assert same or stops, "%s: %r is printed as %r, and the kinds are %r" % (name, parts, texts, kinds)
        compared += len(values)
        stopped += stops
        seen.setdefault(name, []).append((stops, same))
# Columns with a fixed type have one kind with any values, so they never fail a job.
for name in set(seen) & (set(TYPES) - {"object", "datetime64[s]", "datetime64[ns]", "timedelta64[ns]"}):
    assert not any(stops for stops, _ in seen[name]), name
for name in ["integers", "decimals", "decimals and nothing", "truth values", "words", "words and nothing", "days", "exact numbers"]:
    assert not any(stops for stops, _ in seen[name]), name
for name in ["integers and nothing", "integers and decimals", "times", "truth values and numbers"]:
    assert any(stops for stops, _ in seen[name]), name
# A sparse column has the kind of its values. The kind of durations depends on fractions unless pandas prints each value
# alone.
assert runner.kinds_of(pandas, pandas.Series(pandas.arrays.SparseArray([0.0, 0.5]))) == ["decimal"]
assert runner.kinds_of(pandas, pandas.Series([20.5, "n/a"], dtype=object)) == ["decimal", "text"]
durations = [runner.kinds_of(pandas, pandas.Series(pandas.to_timedelta(seconds, unit="s"))) for seconds in ([1.5, 2], [2, 3])]
assert (durations[0] == durations[1]) == runner.prints_fractions_alone(pandas), durations
print("compared %d values; %d columns have parts of different kinds" % (compared, stopped))
if "-v" in sys.argv:
    for name, results in seen.items():
        needless = sum(stops and same for stops, same in results)
        print("%-30s %3d of %3d stop, %d needlessly" % (name, sum(s for s, _ in results), len(results), needless))
