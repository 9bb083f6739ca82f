"""The alternatives that `cargo xtask bench` compares the project with.

    peers.py process MODEL CSV OUTPUT          one pandas process, the whole file at once
    peers.py pool PROCESSES MODEL CSV OUTPUT   multiprocessing.Pool, 100 rows at a time
    peers.py polars CSV OUTPUT                 polars: read the file, add a column, write the file

    peers.py fitted-whole MODEL CSV OUTPUT     pandas, the whole file at once, with threads as they come
    peers.py fitted-polars MODEL CSV OUTPUT    polars reads and writes; the model in one process, with threads as they come
    peers.py fitted-pool ROWS MODEL CSV OUTPUT multiprocessing.Pool(2), this many rows at a time
    peers.py fitted-dask MODEL CSV OUTPUT      Dask with two workers

MODEL is the name of a function in models.py, or of a fitted model in fitted.py. The last printed line is JSON: the number of
rows, and the seconds from their first results to their last, which leaves out the start; of a fitted model, the seconds of
all.
"""

import io
import itertools
import json
import multiprocessing
import os
import sys
import time

START = time.perf_counter()
CHUNK_SIZE = 100
# What pandas and polars would take for something else.
TYPES = {"zip": str, "active": str}
# With a thread for each core in each process, two processes take ten times as long.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


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


def load(name):
    import fitted

    return getattr(fitted, name)()


def fitted_whole(name, source, output):
    import pandas

    frame = pandas.read_csv(source, dtype=TYPES)
    frame.assign(SCORE=load(name)(frame)).to_csv(output, index=False)
    return len(frame), time.perf_counter() - START


def fitted_polars(name, source, output):
    import polars

    frame = polars.read_csv(source, schema_overrides={name: polars.String for name in TYPES})
    model = load(name)
    scores = model(frame.select(model.columns).to_pandas())
    frame.with_columns(polars.Series("SCORE", scores)).write_csv(output)
    return len(frame), time.perf_counter() - START


def begin_fitted(name):
    global FITTED
    FITTED = load(name)


def score(frame):
    return frame.assign(SCORE=FITTED(frame)).to_csv(header=False, index=False)


def fitted_pool(chunk_size, name, source, output):
    os.environ.update(ONE_THREAD)
    import pandas

    rows = 0
    with multiprocessing.Pool(2, begin_fitted, (name,)) as workers, open(output, "w", newline="") as out:
        chunks = pandas.read_csv(source, dtype=TYPES, chunksize=int(chunk_size))
        for text in workers.imap(score, chunks):
            out.write(text)
            rows += text.count("\n")
    return rows, time.perf_counter() - START


def fitted_dask(name, source, output):
    os.environ.update(ONE_THREAD)
    import dask.dataframe
    from dask.distributed import Client, LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster):
        model = load(name)
        frame = dask.dataframe.read_csv(source, dtype=TYPES, blocksize="4MB")
        scored = frame.map_partitions(lambda part: part.assign(SCORE=model(part)), meta=frame._meta.assign(SCORE=0.0))
        scored.to_csv(output, single_file=True, index=False)
        return len(frame), time.perf_counter() - START


PEERS = {
    "process": process,
    "pool": pool,
    "polars": with_polars,
    "fitted-whole": fitted_whole,
    "fitted-polars": fitted_polars,
    "fitted-pool": fitted_pool,
    "fitted-dask": fitted_dask,
}


def main(peer, *words):
    rows, seconds = PEERS[peer](*words)
    print(json.dumps({"rows": rows, "seconds": seconds}))


if __name__ == "__main__":
    main(*sys.argv[1:])
