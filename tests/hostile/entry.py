"""The entry points, as functions that end as the program does."""

import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

from losslab.config.errors import exit_on_error

ROOT = Path(__file__).resolve().parents[2]


def command(name: str, *arguments: str) -> Callable[[], None]:
    """A command of the command line."""

    def run() -> None:
        os.environ.update(HF_HUB_OFFLINE="1", WANDB_MODE="offline", OMP_NUM_THREADS="1", COLUMNS="200")
        sys.argv = [f"{name}.py", *arguments]
        runpy.run_path(str(ROOT / f"{name}.py"), run_name="__main__")

    return run


def call(function: Callable[[], object]) -> Callable[[], None]:
    """A function below the command line, under the handler of errors that every command has."""

    def run() -> None:
        with exit_on_error():
            function()

    return run
