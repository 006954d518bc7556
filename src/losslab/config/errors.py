"""How a program ends on an error: one sentence and an exit status."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from losslab.config.log import terminal_text

INTERRUPTED = 130  # what a shell calls a program that Ctrl-C ended


def tell(text: str) -> None:
    """Print a message on standard error, without secrets or control characters, which may come from a file."""
    print(terminal_text(text), file=sys.stderr, flush=True)


@contextmanager
def exit_on_error(*failures: type[Exception]) -> Iterator[None]:
    """End the program on an error: a user's mistake or OSError with a sentence and 2, Ctrl-C with 130, others with 1.

    Exceptions in `failures` are also printed without a traceback. Commands import everything else inside this block,
    since Ctrl-C may come during imports; and Hydra's callbacks use it, since Hydra would turn their exceptions into
    warnings.
    """
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # the reader of the output has exited
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except failures as error:
        tell(f"error: {error}")
        sys.exit(1)
    except Exception as error:
        from hydra.errors import HydraException
        from omegaconf.errors import OmegaConfBaseException

        from losslab.config.messages import of_the_disk, sentence

        # OmegaConf lets the OverflowError of an integer too large for a float through.
        if isinstance(error, HydraException | OmegaConfBaseException | ValueError | OverflowError):
            tell(f"error: {sentence(error)}")
        elif isinstance(error, OSError):
            tell(f"error: {of_the_disk(error)}")
        else:
            traceback.print_exc()
            sys.exit(1)
        sys.exit(2)
