"""A worker of tests/waiting/contest.rs that locks with a library of Python: python3 worker.py WAY."""
import contextlib
import fcntl
import os
import random
import struct
import sys
import time

LOCK, ME = os.environ["LOCK"], os.environ["ME"]


def filelock(exclusive):
    from filelock import FileLock

    return FileLock(LOCK, timeout=60, poll_interval=0.003)


def portalocker(exclusive):
    import portalocker

    flags = portalocker.LockFlags.EXCLUSIVE if exclusive else portalocker.LockFlags.SHARED
    return portalocker.Lock(
        LOCK, "a+", timeout=60, check_interval=0.003, flags=flags | portalocker.LockFlags.NON_BLOCKING
    )


@contextlib.contextmanager
def portalocker_that_waits(exclusive):
    import portalocker

    with open(LOCK, "a+") as file:
        portalocker.lock(file, portalocker.LockFlags.EXCLUSIVE if exclusive else portalocker.LockFlags.SHARED)
        yield
        portalocker.unlock(file)


@contextlib.contextmanager
def fasteners(exclusive):
    from fasteners import InterProcessLock

    lock = InterProcessLock(LOCK)
    lock.acquire(delay=0.002, max_delay=0.005)
    yield
    lock.release()


def fasteners_rw(exclusive):
    from fasteners import InterProcessReaderWriterLock

    lock = InterProcessReaderWriterLock(LOCK)
    return (lock.write_lock if exclusive else lock.read_lock)(delay=0.002, max_delay=0.005)


@contextlib.contextmanager
def zc_lockfile(exclusive):
    import zc.lockfile

    while True:
        try:
            lock = zc.lockfile.LockFile(LOCK)
            break
        except zc.lockfile.LockError:
            time.sleep(0.003)
    yield
    lock.close()


@contextlib.contextmanager
def lockf(exclusive):
    with open(LOCK, "a+") as file:
        fcntl.lockf(file, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        yield
        fcntl.lockf(file, fcntl.LOCK_UN)


@contextlib.contextmanager
def ranges(exclusive):
    """Of ten bytes a writer locks any that all readers and writers have in common with it: the fifth."""
    start = random.randint(0, 5)
    with open(LOCK, "a+") as file:
        fcntl.lockf(file, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH, random.randint(6 - start, 10), start)
        yield


@contextlib.contextmanager
def ofd(exclusive):
    with open(LOCK, "a+") as file:
        kind = fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK
        # struct flock of x86-64: type, whence, start, length, pid.
        fcntl.fcntl(file, fcntl.F_OFD_SETLKW, struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0))
        yield


WAYS = {
    "filelock": (filelock, False),
    "portalocker": (portalocker, True),
    "portalocker-that-waits": (portalocker_that_waits, True),
    "fasteners": (fasteners, False),
    "fasteners-rw": (fasteners_rw, True),
    "zc.lockfile": (zc_lockfile, False),
    "lockf": (lockf, True),
    "ranges": (ranges, True),
    "ofd": (ofd, True),
}


def nap():
    time.sleep(random.uniform(0.0005, 0.004))


def main():
    way, shares = WAYS[sys.argv[1]]
    history = os.open(os.environ["HISTORY"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    counter = os.open(os.environ["COUNTER"], os.O_RDWR)
    while not os.path.exists(os.environ["ENOUGH"]):
        exclusive = not shares or random.random() < 0.4
        asked = time.monotonic_ns()
        with way(exclusive):
            begin = time.monotonic_ns()
            mode = "exclusive" if exclusive else "shared"
            os.write(history, f"begin {ME} {mode} {asked} {begin}\n".encode())
            if exclusive:
                count = int(os.pread(counter, 20, 0))
                nap()
                os.pwrite(counter, f"{count + 1}\n".encode(), 0)
            else:
                nap()
            os.write(history, f"end {ME} {time.monotonic_ns()}\n".encode())
        nap()


main()
