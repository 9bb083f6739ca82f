"""Loads the runner of Python models as a module, without running it."""

import sys


def load(path):
    with open(path, encoding="utf-8") as source:
        text = source.read()
    runner = type(sys)("classifier_runner")
    # Without the call of main() at its end.
    exec(compile(text[: text.rindex("\nmain()")], path, "exec"), runner.__dict__)
    return runner
