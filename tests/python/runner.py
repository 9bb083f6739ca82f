"""Loads the runner of Python models as a module, without running it."""

import sys


def load(path):
    with open(path, encoding="utf-8") as source:
        text = source.read()
    runner = type(sys)("classifier_runner")
    exec(compile(text, path, "exec"), runner.__dict__)
    return runner
