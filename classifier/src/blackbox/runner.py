"""Runs a pandas function for a classifier worker.

Started as `python3 -c THIS MODULE FUNCTION`. Speaks frames (a 4-byte big-endian length, then the payload) over
standard input and output. A request is the number of rows (4 bytes, big-endian) and a CSV with its header; an answer
is `K`, the length of what the columns are (4 bytes), that (as JSON), and the result lines; or `E` and the reason. The first answer, before any request, says whether the module
could be loaded.
"""

import csv
import functools
import importlib
import io
import json
import os
import re
import select
import signal
import struct
import sys
import traceback

# As many bytes as an answer may have; the classifier takes no longer one.
LIMIT = 128 << 20

def main():
    module_name, function_name = sys.argv[1:3]
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    # The pipes are ours: what the module reads is empty, and what it prints goes to standard error.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    # Ctrl-C in a terminal is for the classifier. When that ends, however it ends, so does this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    watch(requests.fileno())

    def answer(kind, text, columns=None):
        payload = kind
        if columns is not None:
            schema = json.dumps(columns).encode("ascii")
            payload += struct.pack(">I", len(schema)) + schema
        payload += text.encode("utf-8", "surrogatepass")
        if len(payload) > LIMIT:
            payload = b"E" + b"a result of %d bytes, and the limit is %d" % (len(payload), LIMIT)
        answers.write(struct.pack(">I", len(payload)) + payload)
        answers.flush()

    def request():
        prefix = requests.read(4)
        if len(prefix) < 4:
            return None
        (length,) = struct.unpack(">I", prefix)
        payload = requests.read(length)
        return payload if len(payload) == length else None

    try:
        pandas, function = load(module_name, function_name)
    except Exception as error:
        answer(b"E", str(error))
        return
    answer(b"K", "")
    name = module_name + "." + function_name
    shown = 0
    while True:
        payload = request()
        if payload is None:
            return
        (rows,) = struct.unpack_from(">I", payload)
        try:
            columns, result = classify(pandas, function, name, rows, payload[4:])
        except Exception as error:
            # The reason goes to the rejects; the whole story to the log, but not a million times.
            if shown < 3:
                shown += 1
                traceback.print_exc()
                sys.stderr.flush()
            answer(b"E", type(error).__name__ + ": " + str(error))
        else:
            answer(b"K", result, columns)


def watch(pipe):
    """Starts a process that ends this one, and what it has started, when nobody holds the other end of the pipe any more.

    Not a thread, since a module may keep Python's lock for as long as it likes.
    """
    parent = os.getpid()
    if os.fork():
        return
    # Who waits for the end of what the parent writes must not wait for this process.
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.closerange(3, pipe)
    os.closerange(pipe + 1, 64)
    hangup = select.poll()
    hangup.register(pipe, 0)
    while os.getppid() == parent and not hangup.poll(200):
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)


def load(module_name, function_name):
    where = "Python %s (%s)" % (sys.version.split()[0], sys.executable)
    try:
        import pandas
    except ImportError as error:
        raise Exception(
            "%s has no pandas (%s); install it with `%s -m pip install pandas`, or choose another interpreter"
            " with --python" % (where, error, sys.executable)
        )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name + ".").startswith(error.name + "."):
            raise Exception(
                "%s finds no module %r in %s; give the name of a module in this folder, or set PYTHONPATH"
                % (where, module_name, os.getcwd())
            )
        raise Exception("loading the module %r: %s (%s)" % (module_name, error, where))
    except Exception as error:
        traceback.print_exc()
        raise Exception("loading the module %r: %s: %s" % (module_name, type(error).__name__, error))
    function = getattr(module, function_name, None)
    if not callable(function):
        raise Exception("the module %r has no function %r" % (module_name, function_name))
    return pandas, function


def classify(pandas, function, name, rows, table):
    frame = read(pandas, table)
    if len(frame) != rows:
        raise ValueError("pandas read %d rows of %d" % (len(frame), rows))
    index, columns, values = frame.index.tolist(), frame.columns.tolist(), frame.values.tolist()
    result = function(frame)
    if result is None:
        # The function has added its column to the frame that it got.
        result = frame
    if not isinstance(result, pandas.DataFrame):
        raise TypeError("%s returned a %s; it must return a DataFrame" % (name, type(result).__name__))
    if len(result) != len(index):
        raise ValueError("%s returned %d rows for %d" % (name, len(result), len(index)))
    if "CLASSIFICATION" not in result.columns:
        raise ValueError("%s returned no column CLASSIFICATION" % name)
    if result.index.tolist() != index:
        raise ValueError("%s changed the index or the order of the rows" % name)
    lines = table.decode("utf-8").split("\n")
    added = None
    # The header, the rows, and nothing behind the last line end; and a frame that has its own ways may print itself.
    if len(lines) == rows + 2 and type(result) is pandas.DataFrame and has_only_one_more(result, columns, values):
        added = texts(result["CLASSIFICATION"])
    first = [str(result.index.name or ""), ["text"]]
    if added is None:
        return [first] + schema(pandas, result), result.to_csv(header=False, lineterminator="\n")
    kinds = kinds_of(pandas, result["CLASSIFICATION"])
    known = [[str(column), ["text"]] for column in columns]
    return [first] + known + [["CLASSIFICATION", kinds]], append(lines[1:], index, values, added)


def schema(pandas, frame):
    """The columns' names, and the kinds of their values."""
    return [[str(name), kinds_of(pandas, frame.iloc[:, i])] for i, name in enumerate(frame.columns)]


def kinds_of(pandas, column):
    """In which forms the values of a column are printed that are not missing.

    A number, a truth value or a time has a form that depends on what else is in the column: batches of a job must have the same.
    """
    there = column.dropna()
    if not len(there):
        return []
    kind = there.dtype
    if isinstance(kind, pandas.CategoricalDtype):
        kind = there.cat.categories.dtype
        there = there.astype(kind)
    types = pandas.api.types
    if types.is_object_dtype(kind):
        return sorted({kind_of(kind) for kind in set(map(type, there.tolist()))})
    if types.is_bool_dtype(kind):
        return ["boolean"]
    if types.is_integer_dtype(kind):
        return ["integer"]
    if types.is_float_dtype(kind):
        return ["decimal"] if kind.itemsize == 8 else ["decimal (%s)" % kind]
    if types.is_datetime64_any_dtype(kind) or types.is_timedelta64_dtype(kind):
        printed = there.to_csv(header=False, index=False).partition("\n")[0]
        return ["like " + re.sub(r"[0-9]", "0", re.sub(r"^-?[0-9]+ days", "0 days", printed))]
    if types.is_string_dtype(kind):
        return ["text"]
    return [str(kind)]


def kind_of(kind):
    """The kind of values of this type, each of which is printed by itself."""
    names = {"str": "text", "bool": "boolean", "bool_": "boolean", "float": "decimal", "float64": "decimal"}
    if issubclass(kind, int) and kind is not bool or kind.__name__.startswith(("int", "uint")):
        return "integer"
    return names.get(kind.__name__, kind.__name__)


def has_only_one_more(frame, columns, values):
    """Whether the frame has the columns and values that it had, and CLASSIFICATION behind them."""
    if "CLASSIFICATION" in columns or frame.columns.tolist() != columns + ["CLASSIFICATION"]:
        return False
    # Only strings are compared: what else stands here now may not even be comparable.
    return all(
        new is old or type(new) is str and new == old
        for after, before in zip(frame.values.tolist(), values)
        for new, old in zip(after, before)
    )


def read(pandas, table):
    """All values as strings, the first column as the index: what pandas reads, in less than a third of the time."""
    text = table.decode("utf-8")
    header, records = [], []
    # To Python's own reader, a carriage return ends a line; and pandas knows of byte order marks and NUL bytes.
    if not any(special in text for special in "\r\ufeff\0") and reads_objects(pandas):
        try:
            header, *records = csv.reader(io.StringIO(text, newline=""))
        except csv.Error:
            # A value that is too long for it.
            pass
    names = set(header) - {""}
    if not records or len(names) < len(header) or any(len(record) != len(header) for record in records):
        # Columns need names, which pandas makes up; and what is wrong with records is for it to say.
        return read_by_pandas(pandas, table)
    import numpy

    columns = numpy.array(list(zip(*records)), dtype=object)
    return pandas.DataFrame(
        columns[1:].T, pandas.Index(columns[0], name=header[0]), pandas.Index(header[1:], dtype=object), copy=False
    )


def read_by_pandas(pandas, table):
    # Not with index_col: that would make numbers of an index of digits.
    frame = pandas.read_csv(
        io.BytesIO(table), dtype=str, na_filter=False, skip_blank_lines=False, lineterminator="\n", encoding="utf-8"
    )
    return frame.set_index(frame.columns[0])


@functools.lru_cache(maxsize=None)
def reads_objects(pandas):
    """Whether pandas makes objects of strings; from version 3 on, it has a type for them."""
    return read_by_pandas(pandas, b"A,B\n1,2\n").dtypes.tolist() == ["object"]


def texts(column):
    """A column's values as they are printed, unless some take quotes or have a form that only pandas knows."""
    kind, values = column.dtype.name, column.tolist()
    if kind == "int64" or kind == "float64" and not column.isna().any():
        return [repr(value) for value in values]
    if kind == "object" and all(type(value) is str and not needs_quotes(value) for value in values):
        return values
    return None


def needs_quotes(text):
    return any(special in text for special in ',"\r\n')


def append(lines, index, values, added):
    """What `to_csv` would print for records with one more value, in less time: most stay as they came."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for line, first, others, last in zip(lines, index, values, added):
        if '"' in line or "\r" in line:
            # Which of its values are between quotes is for the writer to say.
            writer.writerow([first, *others, last])
        else:
            text.write(line + "," + last + "\n")
    return text.getvalue()


main()
