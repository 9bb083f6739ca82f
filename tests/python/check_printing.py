"""Compares how the runner of Python models reads and prints rows with pandas: `check_printing.py RUNNER`."""

import random
import sys

import numpy
import pandas
from runner import load

runner = load(sys.argv[1])

draw = random.Random(1)
PIECES = ["a", "é", "1", "1.50", "NA", "", " ", "\t", "'", ",", '"', "\r", "\n", "\r\n", "-", ";"]


def value():
    return "".join(draw.choice(PIECES) for _ in range(draw.randrange(4)))


def field(value):
    # Quotes are special only at the beginning of a value; text after a closing quote belongs to the value.
    if draw.random() < 0.05:
        return draw.choice(['5" pipe', 'a"b"', '""', '"a"b', '"a"b"c"', '"a,"b'])
    needed = any(special in value for special in ',"\r\n')
    return '"%s"' % value.replace('"', '""') if needed or draw.random() < 0.2 else value


def table(rows, columns):
    # The first value is never empty, since an empty line would not be a record.
    first = [str(i) + value() for i in range(rows)]
    records = [[first[i]] + [value() for _ in range(columns)] for i in range(rows)]
    header = ",".join("ABCDEFG"[: columns + 1])
    return header, "".join(",".join(map(field, record)) + "\n" for record in records)


def number():
    return draw.choice([0.0, 0.5, 1e-5, 1e16, 123456789012345680.0, float("inf"), draw.random(), 10 ** draw.uniform(-20, 20)])


MODELS = {
    "floats": lambda df: df.assign(CLASSIFICATION=[number() for _ in df.index]),
    "some are missing": lambda df: df.assign(CLASSIFICATION=[draw.choice([0.5, float("nan")]) for _ in df.index]),
    "float32": lambda df: df.assign(CLASSIFICATION=pandas.Series([0.1] * len(df), df.index, dtype="float32")),
    "integers": lambda df: df.assign(CLASSIFICATION=[draw.randrange(-9, 10**12) for _ in df.index]),
    "a number": lambda df: df.assign(CLASSIFICATION=1),
    "booleans": lambda df: df.assign(CLASSIFICATION=[draw.random() < 0.5 for _ in df.index]),
    "words": lambda df: df.assign(CLASSIFICATION=[draw.choice(["good", "bad", ""]) for _ in df.index]),
    "odd words": lambda df: df.assign(CLASSIFICATION=[value() for _ in df.index]),
    "a mixture": lambda df: df.assign(CLASSIFICATION=[draw.choice(["x", None, 1, 2.5]) for _ in df.index]),
    "dates": lambda df: df.assign(CLASSIFICATION=pandas.Timestamp("2018-10-01")),
    "categories": lambda df: df.assign(CLASSIFICATION=pandas.Categorical(["x"] * len(df))),
    "a column in front": lambda df: df.assign(CLASSIFICATION=1)[["CLASSIFICATION"] + list(df.columns)],
    "a changed value": lambda df: df.replace("a", "changed, that is").assign(CLASSIFICATION=1),
    "some are NA": lambda df: df.replace("a", pandas.NA).assign(CLASSIFICATION=1),
    "arrays": lambda df: df.map(lambda value: numpy.array([value])).assign(CLASSIFICATION=1),
    "the column twice": lambda df: pandas.concat([df, df.assign(CLASSIFICATION=1)[["CLASSIFICATION"] * 2]], axis=1),
    "a type of its own": lambda df: df.convert_dtypes().assign(CLASSIFICATION=1),
    "one column only": lambda df: pandas.DataFrame({"CLASSIFICATION": 0.5}, index=df.index),
    "one column more": lambda df: df.assign(MORE=1, CLASSIFICATION=0.5),
}

compared = 0
for _ in range(100):
    for name, model in MODELS.items():
        rows = draw.randrange(1, 12)
        header, records = table(rows, draw.randrange(4))
        data = (header + "\n" + records).encode("utf-8")
        expected_frame = runner.read_by_pandas(pandas, data)
        seen = []

        def remember(df):
            pandas.testing.assert_frame_equal(df, expected_frame, check_exact=True)
            assert df.dtypes.tolist() == expected_frame.dtypes.tolist()
            seen.append(model(df))
            return seen[0]

        _, printed = runner.classify(pandas, remember, name, rows, data)
        expected = seen[0].to_csv(header=False, lineterminator="\n")
        assert printed == expected, "%s: %r is printed as %r, and pandas prints %r" % (name, data, printed, expected)
        compared += printed.count("\n")
assert compared > 5000
print("compared %d lines" % compared)
