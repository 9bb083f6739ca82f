"""Checks that reordered rows are noticed, even if index values repeat: `check_order.py RUNNER`."""

import random
import sys

import pandas
from runner import load

runner = load(sys.argv[1])
draw = random.Random(3)


def table(rows, distinct):
    records = [(draw.choice(distinct), draw.choice("xyz"), "%d" % draw.randrange(1000)) for _ in range(rows)]
    text = "ID,LETTER,NUMBER\n" + "".join(",".join(record) + "\n" for record in records)
    return records, text.encode("utf-8")


def scored(df):
    return df.assign(CLASSIFICATION=df["NUMBER"].astype(int) * 2)


# Functions that reorder rows, as far as the returned columns tell the rows apart.
CHANGES = {
    "sorted by a column": lambda df: scored(df).sort_values("NUMBER", kind="stable"),
    "sorted in place": lambda df: scored(df).sort_values("LETTER", kind="stable"),
    "turned around": lambda df: scored(df).iloc[::-1],
    "sorted by the index": lambda df: scored(df).sort_index(kind="stable"),
    "sorted, and a column changed": lambda df: scored(df).sort_values("NUMBER").assign(LETTER="?"),
    "sorted, and only the result left": lambda df: scored(df).sort_values("NUMBER")[["CLASSIFICATION"]],
    "sorted, with an index of its own": lambda df: scored(df.reset_index()).sort_values("NUMBER").set_index("ID"),
    "grouped": lambda df: pandas.concat([part for _, part in scored(df).groupby("LETTER")]),
}
# Functions that keep the order.
KEEPS = {
    "nothing": scored,
    "an index of its own": lambda df: scored(df.reset_index()).set_index("ID"),
    "a changed column": lambda df: scored(df).assign(LETTER=df["LETTER"].str.upper()),
    "a column of one value": lambda df: scored(df).assign(LETTER="x"),
    "only the result": lambda df: scored(df)[["CLASSIFICATION"]],
    "numbers": lambda df: scored(df.astype({"NUMBER": int})),
    "a copy of its index": lambda df: scored(df).set_axis(pandas.Index([str(i) + "" for i in df.index], name="ID")),
    "sorted and back": lambda df: scored(df.reset_index()).sort_values("NUMBER").sort_index().set_index("ID"),
    "joined": lambda df: scored(df.reset_index().merge(pandas.DataFrame({"LETTER": list("xyz"), "W": [1, 2, 3]}), how="left").set_index("ID")),
}


def changes(records, order):
    return [records[i] for i in order] != records


noticed = kept = 0
for distinct in (["a1", "b2"], ["1", "2"], ["same"], ["1", "2", "3", "44", "55", "66"]):
    for _ in range(30):
        rows = draw.randrange(2, 9)
        records, data = table(rows, distinct)
        for name, function in CHANGES.items():
            order = []

            def remember(df):
                result = function(df.assign(ORDER=range(len(df))))
                order[:] = result["ORDER"].tolist() if "ORDER" in result else function_order(df)
                return result.drop(columns="ORDER", errors="ignore")

            def function_order(df):
                return df.assign(ORDER=range(len(df))).sort_values("NUMBER")["ORDER"].tolist()

            try:
                runner.classify(pandas, remember, name, rows, data)
                assert [records[i][0] for i in order] == [record[0] for record in records]
                # Without an error, only rows that look the same may have been moved, unless only the result is left to
                # compare.
                if changes(records, order) and "only the result" not in name:
                    raise AssertionError("%s: %r in the order %r was not noticed" % (name, records, order))
            except ValueError as error:
                assert "changed the index or the order of the rows" in str(error), error
                assert order != list(range(rows)), "%s: %r was not reordered" % (name, records)
                noticed += 1
        for name, function in KEEPS.items():
            try:
                runner.classify(pandas, function, name, rows, data)
            except ValueError as error:
                raise AssertionError("%s: %r: %s" % (name, records, error))
            kept += 1
assert noticed > 500
print("noticed %d changes, and accepted %d results" % (noticed, kept))
