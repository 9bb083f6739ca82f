"""Reads columns with pandas, and prints their types and values.

Standard input is a JSON list of columns, each a list of texts. The output is a list of pairs: the type by its name in
crates/columns, and the values as Python prints them, null if missing.
"""

import csv
import io
import json
import sys

import numpy
import pandas


def column_type(column: pandas.Series) -> str:
    if column.dtype.kind in "iufb":
        return column.dtype.name
    present = column.dropna()
    return "nullable_bool" if len(present) and present.map(type).eq(bool).all() else "string"


def printed(value: object) -> str | None:
    if isinstance(value, float) and numpy.isnan(value):
        return None
    return value if isinstance(value, str) else repr(value)


def read(texts: list[str]) -> tuple[str, list[str | None]]:
    file = io.StringIO(newline="")
    writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerows([["x"]] + [[text] for text in texts])
    file.seek(0)
    column = pandas.read_csv(file, float_precision="round_trip", low_memory=False)["x"]
    return column_type(column), [printed(value) for value in column.tolist()]


json.dump([read(texts) for texts in json.load(sys.stdin)], sys.stdout)
