"""A locker of tests/waiting/libraries.rs: python3 locker.py WAY.

It tries, waits or releases as it is told by lines, and says `ok` or `busy`. Where the library says anything else, it
ends with that.
"""
import fcntl
import os
import struct
import sys

LOCK = "f"


class FileLock:
    def __init__(self):
        import filelock

        self.lock, self.busy = filelock.FileLock(LOCK, poll_interval=0.005), filelock.Timeout

    def take(self, timeout):
        try:
            self.lock.acquire(timeout=timeout)
            return True
        except self.busy:
            return False

    def release(self):
        self.lock.release()


class Portalocker:
    def take(self, timeout):
        import portalocker

        self.lock = portalocker.Lock(LOCK, timeout=timeout or None, fail_when_locked=not timeout, check_interval=0.005)
        try:
            self.lock.acquire()
            return True
        except portalocker.AlreadyLocked:
            return False

    def release(self):
        self.lock.release()


class Fasteners:
    def __init__(self):
        import fasteners

        self.lock = fasteners.InterProcessLock(LOCK)

    def take(self, timeout):
        return self.lock.acquire(blocking=timeout > 0, delay=0.005, max_delay=0.005)

    def release(self):
        self.lock.release()


class Fastener:
    """One side of a lock of readers and writers."""

    def __init__(self, side):
        import fasteners

        lock = fasteners.InterProcessReaderWriterLock(LOCK)
        self.acquire, self.release = {
            "writer": (lock.acquire_write_lock, lock.release_write_lock),
            "reader": (lock.acquire_read_lock, lock.release_read_lock),
        }[side]

    def take(self, timeout):
        return self.acquire(blocking=timeout > 0, delay=0.005, max_delay=0.005)


class ZcLockFile:
    def take(self, timeout):
        import time

        import zc.lockfile

        while True:
            try:
                self.lock = zc.lockfile.LockFile(LOCK)
                return True
            except zc.lockfile.LockError:
                if not timeout:
                    return False
                time.sleep(0.005)

    def release(self):
        self.lock.close()


class Call:
    """Of the standard library: a call that takes the file, the operation and whether it waits."""

    def __init__(self, call):
        self.file, self.call = open(LOCK, "a+"), call

    def take(self, timeout):
        try:
            self.call(self.file, fcntl.LOCK_EX, timeout > 0)
            return True
        except BlockingIOError:
            return False

    def release(self):
        self.call(self.file, fcntl.LOCK_UN, True)


def flock(file, operation, waits):
    fcntl.flock(file, operation if waits else operation | fcntl.LOCK_NB)


def lockf(file, operation, waits):
    fcntl.lockf(file, operation if waits else operation | fcntl.LOCK_NB)


def lockf_of_bytes(file, operation, waits):
    fcntl.lockf(file, operation if waits else operation | fcntl.LOCK_NB, 1, 1000)


def ofd(file, operation, waits):
    kind = fcntl.F_UNLCK if operation == fcntl.LOCK_UN else fcntl.F_WRLCK
    command = fcntl.F_OFD_SETLKW if waits else fcntl.F_OFD_SETLK
    # struct flock of x86-64: type, whence, start, length, pid.
    fcntl.fcntl(file, command, struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0))


WAYS = {
    "filelock": FileLock,
    "portalocker": Portalocker,
    "fasteners": Fasteners,
    "fasteners-writer": lambda: Fastener("writer"),
    "fasteners-reader": lambda: Fastener("reader"),
    "zc.lockfile": ZcLockFile,
    "flock": lambda: Call(flock),
    "lockf": lambda: Call(lockf),
    "lockf-of-bytes": lambda: Call(lockf_of_bytes),
    "ofd": lambda: Call(ofd),
}
way = WAYS[sys.argv[1]]()
for line in sys.stdin:
    if line == "release\n":
        way.release()
        print("ok", flush=True)
    else:
        print("ok" if way.take(60 if line == "wait\n" else 0) else "busy", flush=True)
