"""Models to measure: a slow function, written as in 2018, and a function that does nothing."""

import hashlib
import os

SLOWNESS = int(os.environ.get("CLASSIFIER_SLOWNESS", "10"))


def score(row):
    """Formats the row again for each hash update, as in 2018, which is why it is slow."""
    digest = hashlib.sha256()
    for _ in range(SLOWNESS):
        digest.update(str(row).encode("utf-8"))
    return (int.from_bytes(digest.digest()[:8], "big") >> 11) * 2.0**-53


def slow(df):
    df["CLASSIFICATION"] = df.apply(score, axis=1)
    return df


def nothing(df):
    df["CLASSIFICATION"] = 0.5
    return df
