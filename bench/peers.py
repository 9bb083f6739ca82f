"""The alternatives that `cargo xtask bench` compares the project with.

    peers.py process MODEL CSV OUTPUT          one pandas process, the whole file at once
    peers.py pool PROCESSES MODEL CSV OUTPUT   multiprocessing.Pool, 100 rows at a time
    peers.py polars CSV OUTPUT               polars: read the file, add a column, write the file

MODEL is the name of a function in models.py. The last printed line is JSON: the number of rows, and the seconds from their
first results to their last, which leaves out the start.
"""

import io
import itertools
import json
import multiprocessing
import sys
import time

CHUNK_SIZE = 100


def read(source, columns=None):
    """Reads as the project's Python model does: strings only, with the first column as index."""
    import pandas

    return pandas.read_csv(source, dtype=str, keep_default_na=False, index_col=0, names=columns)


def process(name, source, output):
    model, df = find(name), read(source)
    start = time.perf_counter()
    model(df).to_csv(output)
    return len(df), time.perf_counter() - start


def begin(name, header):
    global MODEL, COLUMNS
    MODEL, COLUMNS = find(name), header.rstrip("\n").split(",")


def classify(lines):
    return MODEL(read(io.StringIO("".join(lines)), COLUMNS)).to_csv(header=False)


def pool(processes, name, source, output):
    with open(source, newline="") as file, open(output, "w", newline="") as out:
        header = file.readline()
        chunks = iter(lambda: list(itertools.islice(file, CHUNK_SIZE)), [])
        rows, start = 0, None
        with multiprocessing.Pool(int(processes), begin, (name, header)) as workers:
            for text in workers.imap(classify, chunks, chunksize=1):
                out.write(text)
                # The time begins after the first chunk, which had to wait for the processes to start.
                start = start or time.perf_counter()
                rows += text.count("\n")
        return rows - CHUNK_SIZE, time.perf_counter() - start


def with_polars(source, output):
    import polars

    start = time.perf_counter()
    df = polars.read_csv(source, infer_schema=False)
    df.with_columns(CLASSIFICATION=polars.lit(0.5)).write_csv(output)
    return len(df), time.perf_counter() - start


def find(name):
    import models

    return getattr(models, name)


def main(peer, *words):
    peers = {"process": process, "pool": pool, "polars": with_polars}
    rows, seconds = peers[peer](*words)
    print(json.dumps({"rows": rows, "seconds": seconds}))


if __name__ == "__main__":
    main(*sys.argv[1:])
