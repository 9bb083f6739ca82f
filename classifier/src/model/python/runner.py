"""Runs a pandas function for a classifier worker.

`boot.py` fetches this and runs it as a module of its own, with the standard library first in the path. Speaks frames (a
4-byte big-endian length, then the payload) over the socket at standard input. The first request is the module's name, a NUL
and the function's; its answer says whether they could be loaded. Each further one is the number of rows (4 bytes,
big-endian) and a CSV with its header. An answer is `K`, the length of what the columns are (4 bytes), that (as JSON), and
the result lines; or `E` and the reason; or `S` and the reason, of which what was printed last says more.

To the user's code, all is as in a script beside its module: `sys.argv`, `sys.path`, the working folder, standard streams.
"""

import csv
import functools
import importlib
import importlib.machinery
import importlib.util
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
# The whole story of an error goes to the log, but not a million times.
MOST_STORIES = 3


class Failure(Exception):
    """Why the user's function cannot be had."""

    def __init__(self, reason, see_log=False):
        super().__init__(reason)
        self.see_log = see_log


class Channel:
    """Requests in, answers out."""

    def __init__(self):
        # What the module reads is empty. What it prints goes to the log, where an odd character must not be an error.
        self.requests = os.fdopen(os.dup(0), "rb")
        self.answers = os.fdopen(os.dup(self.requests.fileno()), "wb")
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        sys.stdout.reconfigure(errors="backslashreplace")
        self.ready = select.poll()
        self.ready.register(self.requests, select.POLLIN)

    def request(self):
        # A signal's handler, a timer's say, may raise an error after the function has returned: it is no row's fault.
        waits = True
        while waits:
            try:
                self.ready.poll()
                waits = False
            except BaseException as error:
                tell_story(error)
        prefix = self.requests.read(4)
        if len(prefix) < 4:
            return None
        (length,) = struct.unpack(">I", prefix)
        payload = self.requests.read(length)
        return payload if len(payload) == length else None

    def answer(self, kind, text, columns=None):
        payload = kind
        if columns is not None:
            schema = json.dumps(columns).encode("ascii")
            payload += struct.pack(">I", len(schema)) + schema
        payload += text.encode("utf-8", "surrogatepass" if kind == b"K" else "backslashreplace")
        if len(payload) > LIMIT:
            payload = b"E" + b"a result of %d bytes, and the limit is %d" % (len(payload), LIMIT)
        self.answers.write(struct.pack(">I", len(payload)) + payload)
        self.answers.flush()


def end_with_guard():
    """Has the system end this process with its parent, should that be killed in the same moment as the classifier."""
    try:
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, int(signal.SIGKILL))
    except (ImportError, OSError, AttributeError):
        # Without it, the process ends when it next looks for a request.
        pass


def main():
    channel = Channel()
    end_with_guard()
    # Another one than this is a process that the user's code has forked, and that has come back here.
    process = os.getpid()
    payload = channel.request()
    if payload is None:
        return
    module_name, function_name = payload.decode("utf-8").split("\0")
    try:
        pandas, function = load(module_name, function_name)
    except Failure as failure:
        only_in(process)
        channel.answer(b"S" if failure.see_log else b"E", str(failure))
        return
    only_in(process)
    channel.answer(b"K", "")
    name = module_name + "." + function_name
    folder = os.getcwd()
    while True:
        payload = channel.request()
        if payload is None:
            return
        (rows,) = struct.unpack_from(">I", payload)
        try:
            go_to(folder)
            columns, result = classify(pandas, function, name, rows, payload[4:])
        except BaseException as error:
            only_in(process)
            tell_story(error)
            channel.answer(b"E", told(error))
        else:
            only_in(process)
            channel.answer(b"K", result, columns)


def only_in(process):
    """Ends a process that the user's code has forked, and that has come out of its function."""
    if os.getpid() != process:
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, Failure):
            raise error
        os._exit(0)


def go_to(folder):
    """Each batch begins in the folder in which the module was loaded, or which it has gone to then."""
    try:
        if os.getcwd() == folder:
            return
    except OSError:
        # The folder where the function has gone to is no more.
        pass
    os.chdir(folder)


stories = 0


def tell_story(error):
    """Prints an error with where it came from."""
    global stories
    stories += 1
    if stories > MOST_STORIES:
        return
    try:
        story = traceback.TracebackException(type(error), error, error.__traceback__)
        keep_users_frames(story)
        story = "".join(story.format()).encode("utf-8", "backslashreplace")
        # The module may have replaced sys.stderr.
        os.write(2, story[-16384:])
    except BaseException:
        # Its parts may be as odd as they like; that there was an error is told elsewhere.
        pass


def keep_users_frames(story):
    """Leaves out the frames of this file and of importing, which come before those of the user's code."""
    if story is not None:
        story.stack[:] = [frame for frame in story.stack if not is_ours(frame.filename)]
        keep_users_frames(story.__cause__)
        keep_users_frames(story.__context__)


def is_ours(filename):
    return filename in (main.__code__.co_filename, importlib.__file__) or filename.startswith("<frozen importlib")


def told(error):
    """An error's type and text, whatever either of them does."""
    name = type.__dict__["__name__"].__get__(type(error))
    if not name.isprintable():
        name = name.encode("unicode_escape").decode("ascii")
    try:
        text = str(error)
    except BaseException:
        return name
    # The text's own type may have ways of its own, too.
    return str.__add__(name + ": ", text) if str.__len__(text) else name


def load(module_name, function_name):
    where = "Python %s (%s)" % (sys.version.split()[0], sys.executable)
    pandas = load_pandas(where)
    arrange(module_name)
    module = load_module(module_name, where)
    function = getattr(module, function_name, None)
    if not callable(function):
        raise Failure(
            "the module %r (%s) has no function %r; name another one with python:MODULE:FUNCTION"
            % (module_name, getattr(module, "__file__", None) or "a folder", function_name)
        )
    return pandas, function


def load_pandas(where):
    try:
        import pandas
    except BaseException as error:
        if isinstance(error, ImportError):
            raise Failure(
                "%s has no pandas (%s)%s; install it with `%s -m pip install pandas`, or choose another interpreter"
                " with --python" % (where, told(error), hidden_by(error), sys.executable)
            )
        tell_story(error)
        raise Failure("loading pandas: %s (%s)" % (told(error), where))
    if not hasattr(pandas, "DataFrame"):
        raise Failure(
            "the module pandas in %s is not the library pandas, and hides it; give it another name"
            % (getattr(pandas, "__file__", None) or list(pandas.__path__))
        )
    # What it loads when it is first used, it loads now.
    read_by_pandas(pandas, b"A,B\n1,2\n").to_csv(header=False)
    return pandas


def arrange(module_name):
    """Makes all as it is in a script beside the module, which has imported pandas."""
    here = os.getcwd()
    sys.path[:] = [here] + [entry for entry in PATH if entry != ""]
    sys.argv[:] = [script(module_name)]
    sys.orig_argv[:] = [sys.executable] + sys.argv
    main_module = vars(sys.modules["__main__"])
    for name in [name for name in main_module if not name.startswith("__")]:
        del main_module[name]
    # A file that is named like a module of the standard library comes before it, as in a script. What has been imported so
    # far has its own; what the interpreter imports itself, no script can replace.
    for name in sorted(own_names() & getattr(sys, "stdlib_module_names", frozenset())):
        if name not in OWN_MODULES:
            for loaded in [loaded for loaded in sys.modules if (loaded + ".").startswith(name + ".")]:
                del sys.modules[loaded]


def script(module_name):
    """The module's file, as a script would have it as its name."""
    relative = os.path.join(*module_name.split(".")) if module_name.strip(".") else module_name
    for entry in sys.path:
        for name in (relative + ".py", os.path.join(relative, "__init__.py")):
            path = os.path.join(entry, name)
            if os.path.isfile(path):
                return path
    return relative + ".py"


def own_folders():
    """The folders of the user's that come before the standard library."""
    library = os.path.dirname(os.__file__)
    before = sys.path[: sys.path.index(library)] if library in sys.path else sys.path[:1]
    return [entry for entry in before if os.path.isdir(entry)]


def own_names():
    """The names of modules that the user has in these."""
    names = set()
    for folder in own_folders():
        for entry in os.scandir(folder):
            name, extension = os.path.splitext(entry.name)
            if extension == ".py" or os.path.isfile(os.path.join(folder, entry.name, "__init__.py")):
                names.add(name)
    return names


def load_module(module_name, where):
    found = None
    parts = module_name.split(".")
    for i in range(len(parts)):
        part = ".".join(parts[: i + 1])
        what = "loading the module %r, looking for %r" % (module_name, part)
        package = None
        if i:
            # To look for a module in a package, the package is needed.
            package = with_cause(what, where, importlib.import_module, ".".join(parts[:i]))
        is_in_file = package is not None and not hasattr(package, "__path__")
        found = None if is_in_file else with_cause(what, where, importlib.util.find_spec, part)
        if found is None:
            advice = "give the name of a module in this folder, or set PYTHONPATH"
            if i and parts[i:] == ["py"]:
                advice = "without .py, it is %r" % ".".join(parts[:i])
            raise Failure("%s finds no module %r in %s; %s" % (where, part, os.getcwd(), advice))
    origin = "" if found.origin is None else " from %s" % found.origin
    with_cause("loading the module %r%s" % (module_name, origin), where, importlib.import_module, module_name)
    return sys.modules[module_name]


def with_cause(what, where, call, argument):
    """Calls what may run the user's code, and tells what it raises."""
    process = os.getpid()
    try:
        return call(argument)
    except BaseException as error:
        if os.getpid() != process:
            raise
        cause = error
    reason = "%s: %s" % (what, told(cause))
    if isinstance(cause, FileNotFoundError):
        reason += "; the working folder is %s" % os.getcwd()
    if isinstance(cause, ImportError):
        raise Failure("%s%s (%s)" % (reason, hidden_by(cause) or install(cause), where)) from cause
    if isinstance(cause, Exception):
        tell_story(cause)
        raise Failure(reason + hidden_by(cause)) from cause
    # The module has ended the interpreter, perhaps with words of its own.
    raise Failure(reason, see_log=True) from cause


def install(error):
    """What to do about a module that is not there."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return ""
    name = error.name.split(".")[0]
    return "; install it with `%s -m pip install %s` (a package may have another name than its module)" % (
        sys.executable,
        name,
    )


def hidden_by(error):
    """Says so if a file of the user's is in the place of a library that the error is about."""
    name = error.name if isinstance(error, ImportError) else None
    if name is None and isinstance(error, AttributeError):
        name = getattr(getattr(error, "obj", None), "__name__", None)
    if not isinstance(name, str):
        return ""
    name = name.split(".")[0]
    before, behind = own_folders(), [entry for entry in sys.path if entry not in own_folders()]
    finder = importlib.machinery.PathFinder
    own, other = finder.find_spec(name, before), finder.find_spec(name, behind)
    if own is None or own.origin is None or other is None or other.origin in (None, own.origin):
        return ""
    return "; %s hides the module %r of %s: give it another name" % (own.origin, name, other.origin)


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
    after = result.index.tolist()
    if after != index or len(set(index)) < len(index) and is_reordered(index, after, columns, values, result):
        raise ValueError("%s changed the index or the order of the rows" % name)
    lines = table.decode("utf-8").split("\n")
    added = None
    # The header, the rows, and nothing behind the last line end; and a frame that has its own ways may print itself.
    if len(lines) == rows + 2 and type(result) is pandas.DataFrame and has_only_one_more(result, columns, values):
        added = texts(result["CLASSIFICATION"])
    first = [shown(result.index.name or ""), ["text"]]
    if added is None:
        return [first] + schema(pandas, result), result.to_csv(header=False, lineterminator="\n")
    kinds = kinds_of(pandas, result["CLASSIFICATION"])
    known = [[shown(column), ["text"]] for column in columns]
    return [first] + known + [["CLASSIFICATION", kinds]], append(lines[1:], index, values, added)


def is_reordered(index, after, columns, values, result):
    """Whether rows whose index values are the same were put in another order.

    That shows in the values themselves, if each is an object of its own, as most strings are that were read; and in columns
    that the function has left, if their values are those from before in another order, and none has them as they were.
    """
    objects = [id(value) for value in index]
    if len(set(objects)) == len(objects) and objects == [id(value) for value in after]:
        # Each is the very object that was there.
        return False
    groups = {}
    for position, value in enumerate(index):
        groups.setdefault(value, []).append(position)
    groups = [group for group in groups.values() if len(group) > 1]
    kept = [
        ([row[i] for row in values], result.iloc[:, result.columns.get_loc(column)].tolist())
        for i, column in enumerate(columns)
        if columns.count(column) == 1 and result.columns.tolist().count(column) == 1
    ]
    return any(
        is_permuted([id(index[i]) for i in group], [id(after[i]) for i in group])
        or is_group_reordered([([old[i] for i in group], [new[i] for i in group]) for old, new in kept])
        for group in groups
    )


def is_permuted(before, after):
    """Whether different values came in another order."""
    return before != after and len(set(before)) == len(before) and set(before) == set(after)


def is_group_reordered(columns):
    moved = False
    for before, after in columns:
        if not all(isinstance(value, str) for value in after):
            continue
        if before != after:
            moved = moved or sorted(before) == sorted(after)
        elif len(set(before)) == len(before):
            # Each row has its own value where it was.
            return False
    return moved


def schema(pandas, frame):
    """The columns' names, and the kinds of their values."""
    return [[shown(name), kinds_of(pandas, frame.iloc[:, i])] for i, name in enumerate(frame.columns)]


def shown(name):
    """A column's name as text that can be sent, also if it has halves of characters."""
    return str(name).encode("utf-8", "backslashreplace").decode("utf-8")


def kinds_of(pandas, column):
    """In which forms the values of a column are printed that are not missing.

    A number, a truth value or a time may have a form that depends on what else is in the column: batches of a job must have
    the same. `text` is whatever is printed by itself.
    """
    kind, types = column.dtype, pandas.api.types
    if kind == "int64":
        return ["integer"]
    there = column.dropna()
    if not len(there):
        return []
    if isinstance(kind, pandas.CategoricalDtype):
        kind = there.cat.categories.dtype
        there = there.astype(kind)
    # A sparse column is printed as its values are.
    kind = getattr(kind, "subtype", kind) if isinstance(kind, pandas.SparseDtype) else kind
    if types.is_object_dtype(kind):
        return sorted({kind_of(kind) for kind in set(map(type, there.tolist()))})
    if types.is_bool_dtype(kind):
        return ["boolean"]
    if types.is_integer_dtype(kind):
        return ["integer"]
    if types.is_float_dtype(kind):
        return ["decimal"] if kind.itemsize == 8 else ["decimal (%s)" % kind]
    if types.is_datetime64_any_dtype(kind) or types.is_timedelta64_dtype(kind):
        if getattr(kind, "tz", None) is not None and prints_zoned_times_alone(pandas):
            return ["time"]
        printed = there.to_csv(header=False, index=False).partition("\n")[0]
        printed = re.sub(r"[+-][0-9]{2}:[0-9]{2}$", "", re.sub(r"^-?[0-9]+ days \+?", "0 days ", printed))
        if types.is_timedelta64_dtype(kind) and prints_fractions_alone(pandas):
            printed = printed.partition(".")[0]
        return ["like " + re.sub(r"[0-9]", "0", printed)]
    if types.is_string_dtype(kind):
        return ["text"]
    return [str(kind)]


@functools.lru_cache(maxsize=None)
def prints_zoned_times_alone(pandas):
    """Whether the form of a time with a zone is its own, as before version 3, or that of all in its column."""
    times = pandas.to_datetime(pandas.Series(["2018-10-01 10:30:00", "2018-10-01 10:30:00.5"]), format="ISO8601", utc=True)
    return times.to_csv(header=False, index=False).startswith("2018-10-01 10:30:00+")


@functools.lru_cache(maxsize=None)
def prints_fractions_alone(pandas):
    """Whether the fraction of a duration's seconds is its own, as before version 3, or that of all in its column."""
    durations = pandas.Series(pandas.to_timedelta([1.5, 2], unit="s"))
    return durations.to_csv(header=False, index=False).split("\n")[1].endswith(":02")


# What pandas, or NumPy, may turn to another type when something else stands beside it.
CHANGEABLE = {
    "bool": "boolean",
    "bool_": "boolean",
    "float": "decimal",
    "float16": "decimal",
    "float32": "decimal",
    "float64": "decimal",
    "Timestamp": "time",
    "datetime": "time",
    "datetime64": "time",
    "Timedelta": "duration",
    "timedelta": "duration",
    "timedelta64": "duration",
    "Interval": "interval",
}


def kind_of(kind):
    """The kind of values of this type in a column of objects, where each is printed by itself."""
    name = kind.__name__
    if name not in CHANGEABLE and (issubclass(kind, int) or name.startswith(("int", "uint"))):
        return "integer"
    return CHANGEABLE.get(name, "text")


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
