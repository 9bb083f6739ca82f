"""Prints what a model with typed columns should give: pandas reads the whole file, and prints what the model returns.

    expect_typed.py INPUT FOLDER MODULE OBJECT CHUNK
"""

import asyncio
import importlib
import inspect
import sys

import pandas


def table(result, known):
    """The new columns of a result."""
    if isinstance(result, pandas.Series):
        name = result.name if result.name is not None and result.name not in known else "CLASSIFICATION"
        return pandas.DataFrame({name: result})
    if isinstance(result, pandas.DataFrame):
        return result.drop(columns=[name for name in result.columns if name in known])
    if isinstance(result, dict):
        return pandas.DataFrame(result)
    result = pandas.DataFrame(result)
    several = len(result.columns) > 1
    return result.rename(columns=lambda i: "CLASSIFICATION_%d" % i if several else "CLASSIFICATION")


def main():
    path, folder, module, name, chunk = sys.argv[1:]
    chunk = int(chunk)
    sys.path.insert(0, folder)
    model = getattr(importlib.import_module(module), name)
    model = model() if isinstance(model, type) else model
    whole = pandas.read_csv(path, float_precision="round_trip", low_memory=False)
    with open(path, encoding="utf-8", newline="") as file:
        # No value in the tests' inputs has a line end.
        header, *records = file.read().split("\n")[:-1]
    out = []
    for start in range(0, len(whole), chunk):
        part = whole.iloc[start : start + chunk].reset_index(drop=True)
        result = model(part)
        if inspect.isawaitable(result):
            result = asyncio.run(result)
        new = table(result, whole.columns)
        if not out:
            out.append(header + "," + new.iloc[:0].to_csv(index=False))
        lines = new.to_csv(index=False, header=False).split("\n")
        if len(new.columns) == 1:
            # Pandas quotes a lone missing value, which is not alone in our lines.
            lines = ["" if line == '""' else line for line in lines]
        out.extend(record + "," + line + "\n" for record, line in zip(records[start:], lines[:-1]))
    sys.stdout.reconfigure(newline="\n")
    sys.stdout.write("".join(out))


main()
