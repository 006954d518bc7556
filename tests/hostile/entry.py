"""The entry points, as functions that end as the program does."""

import os
from collections.abc import Callable

from losslab.commands.cli import main
from losslab.config.errors import exit_on_error


def command(*arguments: str) -> Callable[[], None]:
    """`losslab` with these arguments."""

    def run() -> None:
        os.environ.update(HF_HUB_OFFLINE="1", WANDB_MODE="offline", OMP_NUM_THREADS="1", COLUMNS="200")
        main(arguments)

    return run


def call(function: Callable[[], object]) -> Callable[[], None]:
    """A function below the command line, under the handler of errors that every verb has."""

    def run() -> None:
        with exit_on_error():
            function()

    return run
