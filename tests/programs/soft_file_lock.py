"""A contender of tests/programs/contest.rs that locks with filelock.SoftFileLock."""
import os
import random
import time

from filelock import SoftFileLock

arena = os.environ["ARENA"]
counter, inside = f"{arena}/counter", f"{arena}/inside"
for _ in range(int(os.environ["ROUNDS"])):
    with SoftFileLock(os.environ["LOCK"], timeout=60, poll_interval=0.005):
        os.mkdir(inside)
        with open(counter) as file:
            count = int(file.read())
        time.sleep(random.random() / 100)
        with open(counter, "w") as file:
            file.write(f"{count + 1}\n")
        os.rmdir(inside)
