"""What the sections of gpu.py measured: one JSON line each, and a page of tables."""

import json
import os
from pathlib import Path
from typing import Any

OUT = Path(os.environ.get("OUT", Path(__file__).parents[1] / "results" / "benchmarks" / "gpu"))


def say(**row: Any) -> None:
    """Print a measurement and keep it."""
    print(json.dumps(row), flush=True)
    OUT.mkdir(parents=True, exist_ok=True)
    with (OUT / "measurements.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
