"""Runs a Python model for a classifier worker.

`boot.py` receives this file and `typed.py`, and runs them as one separate module, with the standard library first in the
path. It exchanges frames (a 4-byte big-endian length, then the payload) over the socket at standard input. The first request
is the module's name, the object's name and the contract, with a NUL between two; its answer says whether they could be
loaded. Each further request is the number of rows (4 bytes, big-endian), and under the contract of 2018 a CSV with its
header; for typed columns, see `Typed`. An answer is one of these:

* `K`, the length of the schema (4 bytes), the schema as JSON, and the results;
* `E` and the reason for a failure;
* `S` and the reason for a failure about which the last output says more.

The user's code finds everything as in a script: `sys.argv`, `sys.path`, the working folder, standard streams.
"""

import array
import csv
import functools
import gc
import importlib
import importlib.machinery
import importlib.util
import inspect
import io
import json
import os
import re
import select
import signal
import socket
import struct
import sys
import traceback

# The most bytes in an answer that the classifier accepts.
LIMIT = 128 << 20
# Files that forks can share.
HARMLESS = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
# Tracebacks go to the log, but not a million times.
MOST_TRACEBACKS = 3


class Failure(Exception):
    """The user's function cannot be loaded."""

    def __init__(self, reason, see_log=False):
        super().__init__(reason)
        self.see_log = see_log


class Channel:
    """Requests in, answers out."""

    def __init__(self, descriptor):
        self.requests = os.fdopen(descriptor, "rb")
        self.answers = os.fdopen(os.dup(descriptor), "wb")
        self.ready = select.poll()
        self.ready.register(self.requests, select.POLLIN)

    def close(self):
        self.requests.close()
        try:
            self.answers.close()
        except OSError:
            # The rest of an answer that a classifier did not wait for.
            pass

    def request(self):
        # A signal handler, such as a timer's, may raise an error after the function has returned. That fails no row.
        is_waiting = True
        while is_waiting:
            try:
                self.ready.poll()
                is_waiting = False
            except BaseException as error:
                print_traceback(error)
        try:
            prefix = self.requests.read(4)
            if len(prefix) < 4:
                return None
            (length,) = struct.unpack(">I", prefix)
            payload = self.requests.read(length)
        except ConnectionError:
            # The classifier has ended before it read the last answer.
            return None
        return payload if len(payload) == length else None

    def answer(self, schema, results):
        schema = json.dumps(schema).encode("ascii")
        self.send(b"K", struct.pack(">I", len(schema)) + schema + results)

    def refuse(self, kind, reason):
        self.send(kind, reason.encode("utf-8", "backslashreplace"))

    def send(self, kind, payload):
        if len(payload) >= LIMIT:
            kind, payload = b"E", b"a result of %d bytes, but the limit is %d" % (len(payload) + 1, LIMIT)
        try:
            self.answers.write(struct.pack(">I", len(payload) + 1) + kind + payload)
            self.answers.flush()
        except ConnectionError:
            # The classifier is gone, and so is its next request.
            pass


def end_with_parent():
    """Makes the system end this process with its parent, in case the guard and the classifier are killed together."""
    # Without this, the process ends when it next reads a request.
    process_control(1, int(signal.SIGKILL))


def process_control(option, value):
    """Calls prctl; returns whether that worked."""
    try:
        import ctypes

        return ctypes.CDLL(None).prctl(option, value, 0, 0, 0) == 0
    except (ImportError, OSError, AttributeError):
        return False


def main():
    # The module reads empty standard input. It prints to the log, where an odd character must not be an error.
    channel = Channel(os.dup(0))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    sys.stdout.reconfigure(errors="backslashreplace")
    end_with_parent()
    # A process with another id was forked by the user's code, and has returned to this function.
    process = os.getpid()
    payload = channel.request()
    if payload is None:
        return
    module_name, object_name, contract, start_method = payload.decode("utf-8").split("\0")
    inherited = descriptors()
    try:
        enter_model_folder()
        model = load(module_name, object_name, contract)
    except Failure as failure:
        end_unless(process)
        channel.refuse(b"S" if failure.see_log else b"E", str(failure))
        return
    end_unless(process)
    hazard = fork_hazard(inherited) if start_method == "auto" else None
    is_template = start_method != "spawn" and hazard is None
    channel.answer({"is_template": is_template, "hazard": hazard}, b"")
    if is_template:
        gc.collect()
        # A later collection would write to the objects, and so copy the memory that the forks share.
        gc.freeze()
    orders = Orders(channel)
    folder = os.getcwd()
    while True:
        session = orders.next_session()
        if session is None:
            return
        serve(session, model, folder)
        if os.getpid() != process:
            # A fork serves one worker.
            return


def serve(channel, model, folder):
    """Classifies rows until the classifier closes the channel."""
    process = os.getpid()
    while True:
        payload = channel.request()
        if payload is None:
            channel.close()
            return
        (rows,) = struct.unpack_from(">I", payload)
        try:
            change_folder(folder)
            schema, results = model.classify(rows, payload)
        except BaseException as error:
            end_unless(process)
            print_traceback(error)
            channel.refuse(b"E", describe(error))
        else:
            end_unless(process)
            channel.answer(schema, results)


def descriptors():
    """The open descriptors, by number, and what each is."""
    found = {}
    try:
        for name in os.listdir("/proc/self/fd"):
            try:
                found[int(name)] = os.readlink("/proc/self/fd/" + name)
            except FileNotFoundError:
                # The descriptor of the listing itself.
                pass
    except OSError:
        # Then the threads are unknown, too.
        pass
    return found


def fork_hazard(inherited):
    """Why a fork of this process might not work; None if it will. The model has not opened the inherited descriptors."""
    try:
        threads = [thread for thread in os.listdir("/proc/self/task") if not survives_fork(thread)]
    except OSError as error:
        return describe(error)
    if len(threads) > 1:
        return "the model has started %d threads" % (len(threads) - 1)
    for number, target in descriptors().items():
        if inherited.get(number) == target or target in HARMLESS:
            continue
        if target.startswith("socket:"):
            return "the model has opened a connection"
        if target.startswith(("/dev/nvidia", "/dev/dri", "/dev/kfd")):
            return "the model uses a GPU"
        # Forks would share a file's offset, and the other ends of pipes.
        return "the model has %s open" % target
    return None


def survives_fork(thread):
    """Whether the library that has started a thread starts it again in a fork, as jemalloc does, which comes with pyarrow."""
    with open("/proc/self/task/%s/comm" % thread) as name:
        return name.read().strip() == "jemalloc_bg_thd"


class Orders:
    """Orders of the classifier to a process that has loaded the model.

    An order has five bytes, a letter and an id or zeros:

    * F, with the descriptors of a fork's channel, its keeper's report and its log;
    * R, with the id of a keeper that was killed; until then, no other process gets that id;
    * K, from a classifier that takes this process over, with a number; the answer has this number and the ids of the keepers;
    * S, with the descriptor of a channel on which this process serves rows itself.
    """

    LENGTH = 5

    def __init__(self, channel):
        self.socket = socket.socket(fileno=os.dup(channel.requests.fileno()))
        channel.close()
        self.keepers = set()
        self.killed = set()

    def next_session(self):
        """Waits for the channel of a worker: this process's, or that of a fork of it, in the fork. None at the end."""
        while True:
            try:
                order, descriptors = self.receive()
            except ConnectionError:
                # The classifier has ended before it read an answer; the next call finds the end.
                continue
            except BaseException as error:
                # A signal handler of the module's may raise it.
                print_traceback(error)
                continue
            if len(order) < self.LENGTH:
                return None
            if order[:1] == b"R":
                self.killed.add(int.from_bytes(order[1:], "big"))
                ended = {keeper for keeper in self.killed if has_ended(keeper)}
                self.killed -= ended
                self.keepers -= ended
                continue
            if order[:1] == b"K":
                number = int.from_bytes(order[1:], "big")
                answer = json.dumps([number, sorted(self.keepers)]).encode("ascii")
                try:
                    self.socket.sendall(struct.pack(">I", 1 + len(answer)) + b"K" + answer)
                except ConnectionError:
                    # The classifier that has asked is gone.
                    pass
                continue
            if order[:1] == b"S":
                channel = Channel(*descriptors)
                # Once this process is no longer busy with rows of an earlier classifier.
                channel.answer({}, b"")
                return channel
            try:
                keeper = os.fork()
            except OSError as error:
                # The classifier notices that the descriptors are closed, and tries again.
                print_traceback(error)
            else:
                if keeper == 0:
                    self.socket.close()
                    return become_worker(*descriptors)
                self.keepers.add(keeper)
            for descriptor in descriptors:
                os.close(descriptor)

    def receive(self):
        received = array.array("i")
        order, ancillary, _, _ = self.socket.recvmsg(self.LENGTH, socket.CMSG_LEN(3 * received.itemsize))
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                received.frombytes(data[: len(data) - len(data) % received.itemsize])
        for descriptor in received:
            os.set_inheritable(descriptor, False)
        return order, received.tolist()


def has_ended(child):
    try:
        return os.waitpid(child, os.WNOHANG)[0] == child
    except ChildProcessError:
        return True


def become_worker(data, report, log):
    """Makes this process the keeper of a worker. Returns in the worker, with its channel.

    All that the worker starts stays below the keeper, even when it loses its parent, so that the classifier can end it.
    """
    os.setpgid(0, 0)
    end_with_parent()
    set_child_subreaper = 36
    process_control(set_child_subreaper, 1)
    os.write(report, b"keeper %d\n" % os.getpid())
    worker = os.fork()
    if worker:
        keep(worker, report)
    os.setpgid(0, 0)
    end_with_parent()
    prefer_to_end()
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.close(report)
    return Channel(data)


def prefer_to_end():
    """Makes the system end this process before its keeper and the template when memory runs out."""
    try:
        with open("/proc/self/oom_score_adj", "w") as score:
            score.write("300")
    except OSError:
        # The system may end another one, and the rows are tried again.
        pass


def keep(worker, report):
    """Reports the end of the worker, until the classifier ends this process."""
    try:
        # The module may have set others.
        for number in range(1, signal.NSIG):
            try:
                signal.signal(number, signal.SIG_DFL)
            except (OSError, ValueError):
                # SIGKILL, SIGSTOP, and those of the C library.
                pass
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            os.dup2(null, descriptor)
        for name in os.listdir("/proc/self/fd"):
            if int(name) > 2 and int(name) != report:
                try:
                    os.close(int(name))
                except OSError:
                    # The descriptor of the listing itself.
                    pass
        # The classifier may be gone. This process stays above what the worker has started, until the next one ends it.
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        tell(report, b"started %d\n" % worker)
        while True:
            try:
                ended, status = os.waitpid(-1, 0)
            except ChildProcessError:
                signal.pause()
                continue
            if ended == worker:
                tell(report, b"ended %d\n" % status)
    finally:
        os._exit(1)


def tell(report, line):
    try:
        os.write(report, line)
    except OSError:
        # The classifier is gone.
        pass


def enter_model_folder():
    """On a host, makes the folder of the module the current one. Here, the user's is."""
    folder = os.environ.pop("CLASSIFIER_MODEL_FOLDER", None)
    if folder is None:
        return
    # Programs that the model starts find the packages by this variable.
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, entries))
    try:
        os.chdir(folder)
    except OSError as error:
        raise Failure("entering the model's folder %s: %s" % (folder, describe(error)))


def end_unless(process):
    """Ends this process unless it has this id. With another id, the user's code has forked it, and it left the function."""
    if os.getpid() != process:
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, Failure):
            raise error
        os._exit(0)


def change_folder(folder):
    """Makes each batch begin in the folder that was current when the module had been loaded."""
    try:
        if os.getcwd() == folder:
            return
    except OSError:
        # The folder that the function changed to no longer exists.
        pass
    os.chdir(folder)


def working_folder():
    try:
        return os.getcwd()
    except OSError:
        return "a folder that no longer exists"


tracebacks = 0


def print_traceback(error):
    global tracebacks
    tracebacks += 1
    if tracebacks > MOST_TRACEBACKS:
        return
    try:
        text = traceback.TracebackException(type(error), error, error.__traceback__)
        keep_users_frames(text)
        text = "".join(text.format())
        if isinstance(error, FileNotFoundError):
            text += "The working folder is %s\n" % working_folder()
        text = text.encode("utf-8", "backslashreplace")
        # The module may have replaced sys.stderr.
        os.write(2, text[-16384:])
    except BaseException:
        # Parts of the error may fail to print. The answer reports the error in any case.
        pass


def keep_users_frames(text):
    """Removes the frames of this file and of importlib, which come before those of the user's code."""
    if text is not None:
        text.stack[:] = [frame for frame in text.stack if not is_ours(frame.filename)]
        keep_users_frames(text.__cause__)
        keep_users_frames(text.__context__)


def is_ours(filename):
    return filename in (main.__code__.co_filename, importlib.__file__) or filename.startswith("<frozen importlib")


def describe(error):
    """An error's type and text, even if the user's own error type misbehaves."""
    name = type.__dict__["__name__"].__get__(type(error))
    if not name.isprintable():
        name = name.encode("unicode_escape").decode("ascii")
    try:
        text = str(error)
    except BaseException:
        return name
    # The text may be of a subclass of str that overrides these methods.
    return str.__add__(name + ": ", text) if str.__len__(text) else name


def load(module_name, object_name, contract):
    where = "Python %s (%s)" % (sys.version.split()[0], sys.executable)
    pandas = load_pandas(where)
    imitate_script(module_name)
    module = load_module(module_name, where)
    model = getattr(module, object_name, None)
    place = "the module %r (%s)" % (module_name, getattr(module, "__file__", None) or "a folder")
    if model is None:
        raise Failure("%s has no function %r; name another one with python:MODULE:FUNCTION" % (place, object_name))
    name = module_name + "." + object_name
    if contract != "2018" and isinstance(model, type):
        # The class loads what it needs, once in each process.
        model = call("making a %s of %s" % (object_name, place), where, lambda _: model(), None)
    if not callable(model):
        hint = "; its class needs a method __call__" if contract != "2018" else ""
        raise Failure("%r in %s is not a function, but a %s%s" % (object_name, place, type(model).__name__, hint))
    return (Of2018 if contract == "2018" else Typed)(pandas, model, name)


def load_pandas(where):
    try:
        import pandas
    except BaseException as error:
        if isinstance(error, ImportError):
            raise Failure(
                "%s has no pandas (%s)%s; install it with `%s -m pip install pandas`, or choose another interpreter"
                " with --python" % (where, describe(error), hidden_by(error), sys.executable)
            )
        print_traceback(error)
        raise Failure("loading pandas: %s (%s)" % (describe(error), where))
    if not hasattr(pandas, "DataFrame"):
        raise Failure(
            "the module pandas in %s is not the library pandas, and hides it; give it another name"
            % (getattr(pandas, "__file__", None) or list(pandas.__path__))
        )
    # Loads now what pandas loads at its first use.
    read_by_pandas(pandas, b"A,B\n1,2\n").to_csv(header=False)
    return pandas


def imitate_script(module_name):
    """Sets up the interpreter as in a script, after its `import pandas`."""
    here = os.getcwd()
    sys.path[:] = [here] + [entry for entry in PATH if entry != ""]
    sys.argv[:] = [script(module_name)]
    sys.orig_argv[:] = [sys.executable] + sys.argv
    main_module = vars(sys.modules["__main__"])
    for name in [name for name in main_module if not name.startswith("__")]:
        del main_module[name]
    # A user's file that is named like a module of the standard library takes precedence, as in a script. Modules imported so
    # far keep the standard one, and no script can replace the modules that the interpreter imports itself.
    for name in sorted(user_module_names() & getattr(sys, "stdlib_module_names", frozenset())):
        if name not in OWN_MODULES:
            for loaded in [loaded for loaded in sys.modules if (loaded + ".").startswith(name + ".")]:
                del sys.modules[loaded]


def script(module_name):
    """The path of the module's file, as in the `sys.argv` of a script."""
    relative = os.path.join(*module_name.split(".")) if module_name.strip(".") else module_name
    for entry in sys.path:
        for name in (relative + ".py", os.path.join(relative, "__init__.py")):
            path = os.path.join(entry, name)
            if os.path.isfile(path):
                return path
    return relative + ".py"


def user_folders():
    """The user's folders in the path before the standard library."""
    library = os.path.dirname(os.__file__)
    before = sys.path[: sys.path.index(library)] if library in sys.path else sys.path[:1]
    return [entry for entry in before if os.path.isdir(entry)]


def user_module_names():
    """The names of the modules in these folders."""
    names = set()
    for folder in user_folders():
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
            # Finding a module in a package needs the package.
            package = call(what, where, importlib.import_module, ".".join(parts[:i]))
        is_in_file = package is not None and not hasattr(package, "__path__")
        found = None if is_in_file else call(what, where, importlib.util.find_spec, part)
        if found is None:
            advice = "give the name of a module in this folder, or set PYTHONPATH"
            if i and parts[i:] == ["py"]:
                advice = "without .py, it is %r" % ".".join(parts[:i])
            raise Failure("%s finds no module %r in %s; %s" % (where, part, working_folder(), advice))
    origin = "" if found.origin is None else " from %s" % found.origin
    call("loading the module %r%s" % (module_name, origin), where, importlib.import_module, module_name)
    return sys.modules[module_name]


def call(what, where, function, argument):
    """Calls a function that may run the user's code, and turns its error into a Failure."""
    process = os.getpid()
    try:
        return function(argument)
    except BaseException as error:
        if os.getpid() != process:
            raise
        cause = error
    reason = "%s: %s" % (what, describe(cause))
    if isinstance(cause, FileNotFoundError):
        reason += "; the working folder is %s" % working_folder()
    if isinstance(cause, ImportError):
        raise Failure("%s%s (%s)" % (reason, hidden_by(cause) or install_advice(cause), where)) from cause
    if isinstance(cause, Exception):
        print_traceback(cause)
        raise Failure(reason + hidden_by(cause)) from cause
    # The module has exited, and may have printed why.
    raise Failure(reason, see_log=True) from cause


def install_advice(error):
    """What to do about a missing module."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return ""
    name = error.name.split(".")[0]
    return "; install it with `%s -m pip install %s` (a package may have another name than its module)" % (
        sys.executable,
        name,
    )


def hidden_by(error):
    """A hint if a file of the user's hides the library that the error is about."""
    name = error.name if isinstance(error, ImportError) else None
    if name is None and isinstance(error, AttributeError):
        name = getattr(getattr(error, "obj", None), "__name__", None)
    if not isinstance(name, str):
        return ""
    name = name.split(".")[0]
    before, after = user_folders(), [entry for entry in sys.path if entry not in user_folders()]
    finder = importlib.machinery.PathFinder
    own, other = finder.find_spec(name, before), finder.find_spec(name, after)
    if own is None or own.origin is None or other is None or other.origin in (None, own.origin):
        return ""
    return "; %s hides the module %r of %s: give it another name" % (own.origin, name, other.origin)


class Of2018:
    """Runs a function under the contract of 2018: a DataFrame of strings in, the same with CLASSIFICATION out."""

    def __init__(self, pandas, function, name):
        self.pandas, self.function, self.name = pandas, function, name

    def classify(self, rows, payload):
        columns, results = classify(self.pandas, self.function, self.name, rows, payload[4:])
        return {"columns": columns}, results.encode("utf-8", "surrogatepass")


def classify(pandas, function, name, rows, table):
    frame = read(pandas, table)
    if len(frame) != rows:
        raise ValueError("pandas read %d rows of %d" % (len(frame), rows))
    index, columns, values = frame.index.tolist(), frame.columns.tolist(), frame.values.tolist()
    result = function(frame)
    if result is None:
        # The function has added its column to its argument.
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
    # The lines are the header, the rows, and an empty one after the last line end. A subclass of DataFrame prints itself.
    if len(lines) == rows + 2 and type(result) is pandas.DataFrame and only_adds_classification(result, columns, values):
        added = printed_values(result["CLASSIFICATION"])
    first = [printable(result.index.name or ""), ["text"]]
    if added is None:
        return [first] + schema(pandas, result), result.to_csv(header=False, lineterminator="\n")
    kinds = kinds_of(pandas, result["CLASSIFICATION"])
    known = [[printable(column), ["text"]] for column in columns]
    return [first] + known + [["CLASSIFICATION", kinds]], append(lines[1:], index, values, added)


def is_reordered(index, after, columns, values, result):
    """Whether the function has reordered rows that have the same index value.

    The index values show it if each is a separate object, as most strings that were read are. The columns that the function
    kept show it if some of them have the old values in another order, and none has distinct values in the old order.
    """
    objects = [id(value) for value in index]
    if len(set(objects)) == len(objects) and objects == [id(value) for value in after]:
        # All index values are the same objects, in the same order.
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
    """Whether distinct values are in another order than before."""
    return before != after and len(set(before)) == len(before) and set(before) == set(after)


def is_group_reordered(columns):
    moved = False
    for before, after in columns:
        if not all(isinstance(value, str) for value in after):
            continue
        if before != after:
            moved = moved or sorted(before) == sorted(after)
        elif len(set(before)) == len(before):
            # Distinct values are where they were, so the rows are, too.
            return False
    return moved


def schema(pandas, frame):
    """The columns' names, and the kinds of their values."""
    return [[printable(name), kinds_of(pandas, frame.iloc[:, i])] for i, name in enumerate(frame.columns)]


def printable(name):
    """A column's name as valid Unicode, with lone surrogates escaped."""
    return str(name).encode("utf-8", "backslashreplace").decode("utf-8")


def kinds_of(pandas, column):
    """The kinds of a column's values, without missing ones: the forms in which pandas prints them.

    The form of a number, a boolean or a time may depend on the rest of the column, so all batches of a job must have the same
    kinds. `text` is a value whose form depends on nothing else.
    """
    kind, types = column.dtype, pandas.api.types
    if kind == "int64":
        return ["integer"]
    present = column.dropna()
    if not len(present):
        return []
    if isinstance(kind, pandas.CategoricalDtype):
        kind = present.cat.categories.dtype
        present = present.astype(kind)
    # A sparse column is printed like its values.
    kind = getattr(kind, "subtype", kind) if isinstance(kind, pandas.SparseDtype) else kind
    if types.is_object_dtype(kind):
        return sorted({kind_of(kind) for kind in set(map(type, present.tolist()))})
    if types.is_bool_dtype(kind):
        return ["boolean"]
    if types.is_integer_dtype(kind):
        return ["integer"]
    if types.is_float_dtype(kind):
        return ["decimal"] if kind.itemsize == 8 else ["decimal (%s)" % kind]
    if types.is_datetime64_any_dtype(kind) or types.is_timedelta64_dtype(kind):
        if getattr(kind, "tz", None) is not None and prints_zoned_times_alone(pandas):
            return ["time"]
        printed = present.to_csv(header=False, index=False).partition("\n")[0]
        printed = re.sub(r"[+-][0-9]{2}:[0-9]{2}$", "", re.sub(r"^-?[0-9]+ days \+?", "0 days ", printed))
        if types.is_timedelta64_dtype(kind) and prints_fractions_alone(pandas):
            printed = printed.partition(".")[0]
        return ["like " + re.sub(r"[0-9]", "0", printed)]
    if types.is_string_dtype(kind):
        return ["text"]
    return [str(kind)]


@functools.lru_cache(maxsize=None)
def prints_zoned_times_alone(pandas):
    """Whether the printed form of a time with a zone depends on nothing else in its column, as before pandas 3."""
    times = pandas.to_datetime(pandas.Series(["2018-10-01 10:30:00", "2018-10-01 10:30:00.5"]), format="ISO8601", utc=True)
    return times.to_csv(header=False, index=False).startswith("2018-10-01 10:30:00+")


@functools.lru_cache(maxsize=None)
def prints_fractions_alone(pandas):
    """Whether the printed fraction of a duration depends on nothing else in its column, as before pandas 3."""
    durations = pandas.Series(pandas.to_timedelta([1.5, 2], unit="s"))
    return durations.to_csv(header=False, index=False).split("\n")[1].endswith(":02")


# Types that pandas or NumPy may convert, depending on the other values of the column.
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
    """The kind of values of this type in a column of objects, where each value is printed by itself."""
    name = kind.__name__
    if name not in CHANGEABLE and (issubclass(kind, int) or name.startswith(("int", "uint"))):
        return "integer"
    return CHANGEABLE.get(name, "text")


def only_adds_classification(frame, columns, values):
    """Whether the frame has its old columns and values, followed by CLASSIFICATION."""
    if "CLASSIFICATION" in columns or frame.columns.tolist() != columns + ["CLASSIFICATION"]:
        return False
    # Only strings are compared, since new values of other types may not be comparable.
    return all(
        new is old or type(new) is str and new == old
        for after, before in zip(frame.values.tolist(), values)
        for new, old in zip(after, before)
    )


def read(pandas, table):
    """Reads all values as strings, the first column as the index: what pandas reads, in less than a third of the time."""
    text = table.decode("utf-8")
    header, records = [], []
    # To Python's own reader, a carriage return ends a line. Pandas treats byte order marks and NUL bytes differently.
    if not any(special in text for special in "\r\ufeff\0") and strings_are_objects(pandas):
        try:
            header, *records = csv.reader(io.StringIO(text, newline=""))
        except csv.Error:
            # A value is too long for Python's reader.
            pass
    names = set(header) - {""}
    if not records or len(names) < len(header) or any(len(record) != len(header) for record in records):
        # Pandas makes up missing names, and reports what is wrong with records.
        return read_by_pandas(pandas, table)
    import numpy

    columns = numpy.array(list(zip(*records)), dtype=object)
    return pandas.DataFrame(
        columns[1:].T, pandas.Index(columns[0], name=header[0]), pandas.Index(header[1:], dtype=object), copy=False
    )


def read_by_pandas(pandas, table):
    # index_col would convert an index of digits to numbers.
    frame = pandas.read_csv(
        io.BytesIO(table), dtype=str, na_filter=False, skip_blank_lines=False, lineterminator="\n", encoding="utf-8"
    )
    return frame.set_index(frame.columns[0])


@functools.lru_cache(maxsize=None)
def strings_are_objects(pandas):
    """Whether pandas stores strings as objects. From version 3 on, it has a type for them."""
    return read_by_pandas(pandas, b"A,B\n1,2\n").dtypes.tolist() == ["object"]


def printed_values(column):
    """A column's values as pandas prints them; None if some need quotes or have a form that only pandas knows."""
    kind, values = column.dtype.name, column.tolist()
    if kind == "int64" or kind == "float64" and not column.isna().any():
        return [repr(value) for value in values]
    if kind == "object" and all(type(value) is str and not needs_quotes(value) for value in values):
        return values
    return None


def needs_quotes(text):
    return any(special in text for special in ',"\r\n')


def append(lines, index, values, added):
    """Prints what `to_csv` would print for records with one more value. Faster, since most lines are kept as they came."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for line, first, others, last in zip(lines, index, values, added):
        if '"' in line or "\r" in line:
            # The writer decides which values need quotes.
            writer.writerow([first, *others, last])
        else:
            text.write(line + "," + last + "\n")
    return text.getvalue()
