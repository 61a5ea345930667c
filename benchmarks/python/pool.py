"""Times calls in worker processes. The benchmarks in Go run this script.

Each line of standard input asks for one measurement, and is answered by a line of
standard output; both are JSON. A measurement has a pool of its own, whose start
and end are not in its time. The script ends with its input.
"""

import concurrent.futures
import contextlib
import gc
import json
import multiprocessing
import sys
import time


def increment(x):
    return x + 1


def spin(turns):
    """What spin in throughput.go computes, with 64 bits."""
    x = turns | 1
    for _ in range(turns):
        x ^= (x << 13) & 0xFFFFFFFFFFFFFFFF
        x ^= x >> 7
        x ^= (x << 17) & 0xFFFFFFFFFFFFFFFF
    return x


def echo(data):
    return data


@contextlib.contextmanager
def started(pool, workers):
    """Starts a pool. Gives a function that makes a call and waits for it, and one
    that makes many, so many in a message, and waits for all."""
    fork = multiprocessing.get_context("fork")  # so that the workers know this script
    if pool == "multiprocessing.Pool":
        with fork.Pool(workers) as p:
            yield lambda f, x: p.apply(f, (x,)), lambda f, xs, n: p.map(f, xs, chunksize=n)
    elif pool == "ProcessPoolExecutor":
        with concurrent.futures.ProcessPoolExecutor(workers, mp_context=fork) as p:
            yield lambda f, x: p.submit(f, x).result(), lambda f, xs, n: list(p.map(f, xs, chunksize=n))
    else:  # here
        yield lambda f, x: f(x), lambda f, xs, n: [f(x) for x in xs]


def measure(pool, workers, function, argument, calls, how):
    """Returns the seconds that the calls took, and what each of them returned."""
    f = {"increment": increment, "spin": spin, "echo": echo}[function]
    look = len if function == "echo" else int
    if function == "echo":
        argument = bytes(argument)
    arguments = [argument] * calls
    chunk = max(1, calls // (4 * workers)) if how == "chunks" else 1  # as Pool.map has it by default
    with started(pool, workers) as (call, call_all):
        want = look(call(f, argument))
        call_all(f, [argument] * (4 * workers), 1)  # each worker has had one before it counts
        gc.collect()
        begin = time.perf_counter()
        if how:
            results = [look(r) for r in call_all(f, arguments, chunk)]
        else:
            results = [look(call(f, x)) for x in arguments]
        seconds = time.perf_counter() - begin
    if results != [want] * calls:
        raise ValueError("a call returned something else than the others")
    return {"seconds": seconds, "result": want}


for line in sys.stdin:
    print(json.dumps(measure(**json.loads(line))), flush=True)
