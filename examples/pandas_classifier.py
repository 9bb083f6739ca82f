"""A pandas model, by the contract of 2018.

`classify_df` gets a DataFrame of strings whose index is the CSV's first column, and adds the column CLASSIFICATION.
This example computes the score of the built-in model `native`, so that you can compare the two:

    cargo xtask run-locally --model python:examples.pandas_classifier --input-lines 10000
"""

import hashlib
import os

SLOWNESS = int(os.environ.get("CLASSIFIER_SLOWNESS", "10"))


def score(values):
    """The top 53 bits of a SHA-256 over the values, as a number in [0, 1)."""
    joined = "\x1f".join(values).encode("utf-8")
    digest = hashlib.sha256(joined * SLOWNESS).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) * 2.0**-53


def classify_df(df):
    df["CLASSIFICATION"] = [score(values) for values in df.itertuples(name=None)]
    return df
