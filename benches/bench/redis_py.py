"""The lock of redis-py: acquires and releases, and tells the times as client.rs does.

redis_py.py LIBRARY URL one|any CLIENTS MICROSECONDS

Each client is a process with a connection of its own: threads of one Python would wait for its interpreter lock,
and who needs a lock over the network has processes. The lock object is made for each pair, as people do with
`with connection.lock(NAME)`.
"""

import multiprocessing
import os
import struct
import sys
import time

LIBRARY, URL, ON, CLIENTS, MICROSECONDS = sys.argv[1:]
sys.path.insert(0, LIBRARY)

import redis  # noqa: E402, from the library above

WARM_UP = 50
TTL = 300


def pair(connection, name):
    before = time.perf_counter_ns()
    lock = redis.lock.Lock(connection, name, timeout=TTL, blocking=False)
    if not lock.acquire():
        sys.exit("redis-py: a lock that nobody holds is held")
    acquired = time.perf_counter_ns()
    lock.release()
    return before, acquired - before, time.perf_counter_ns() - acquired


def client(number, start_line, pipe):
    connection = redis.Redis.from_url(URL)
    name = f"redis-py-{number}"
    for _ in range(WARM_UP):
        pair(connection, name)
    samples = []
    start_line.wait(60)
    start = time.perf_counter_ns()
    end = start + int(MICROSECONDS) * 1000
    while not samples or time.perf_counter_ns() < end:
        samples.append(pair(connection, name))
    elapsed = time.perf_counter_ns() - start
    told = [struct.pack("<QIII", at - start, acquire, 0, release) for at, acquire, release in samples]
    pipe.send_bytes(struct.pack("<Q", elapsed) + b"".join(told))


def main():
    if ON == "one":
        os.sched_setaffinity(0, {os.cpu_count() - 1})
    context = multiprocessing.get_context("fork")
    start_line = context.Barrier(int(CLIENTS))
    pipes = []
    for number in range(int(CLIENTS)):
        mine, its = context.Pipe(False)
        context.Process(target=client, args=(number, start_line, its), daemon=True).start()
        its.close()
        pipes.append(mine)
    told = [pipe.recv_bytes() for pipe in pipes]
    sys.stdout.buffer.write(max((one[:8] for one in told), key=lambda one: struct.unpack("<Q", one)))
    sys.stdout.buffer.write(b"".join(one[8:] for one in told))


main()
