"""How a program ends on an error: one sentence and an exit status."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from losslab.config.log import terminal_text

INTERRUPTED = 130  # what a shell calls a program that Ctrl-C ended


def tell(text: str) -> None:
    """Print a message on standard error, without secrets and control characters, which may be a file's."""
    print(terminal_text(text), file=sys.stderr, flush=True)


@contextmanager
def exit_on_error(*failures: type[Exception]) -> Iterator[None]:
    """End the program on an error: a user's mistake in one sentence and with status 2, Ctrl-C with 130, others with 1.

    Of `failures` too the sentence says enough. The scripts import everything else inside of it, since Ctrl-C may come
    while they do; and Hydra's callbacks are in it, since Hydra would turn what they raise into a warning.
    """
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # who reads the output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except failures as error:
        tell(f"error: {error}")
        sys.exit(1)
    except Exception as error:
        from hydra.errors import HydraException
        from omegaconf.errors import OmegaConfBaseException

        from losslab.config.messages import of_the_disk, sentence

        # OmegaConf passes the OverflowError of an integer on that no float can hold.
        if isinstance(error, HydraException | OmegaConfBaseException | ValueError | OverflowError):
            tell(f"error: {sentence(error)}")
        elif isinstance(error, OSError):
            tell(f"error: {of_the_disk(error)}")
        else:
            traceback.print_exc()
            sys.exit(1)
        sys.exit(2)
