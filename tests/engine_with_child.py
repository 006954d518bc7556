"""An engine that starts a process of its own, as vLLM does on a GPU; its only sample is the id of that process."""

import subprocess
import time
from collections.abc import Iterator
from typing import Any


def run(job: Any, requests: list[Any], on_gpu: bool) -> Iterator[list[int]]:
    child = subprocess.Popen(["sleep", "600"])
    if requests[0] == "load":
        print(child.pid, flush=True)
        time.sleep(600)
    yield []
    yield [child.pid]
    if requests[0] == "stay":
        time.sleep(600)
