"""A hand of tests/hosts/contest.rs that locks with filelock.SoftFileLock."""
import os
import sys

from filelock import SoftFileLock, Timeout

lock = SoftFileLock(os.environ["LOCK"], timeout=0)
for line in sys.stdin:
    try:
        if line == "acquire\n":
            lock.acquire()
        else:
            lock.release()
        print("ok", flush=True)
    except (OSError, Timeout) as error:
        print("no", error, flush=True)
