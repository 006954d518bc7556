"""Hydra for composing configurations outside of a command that Hydra runs."""

from collections.abc import Iterator
from contextlib import contextmanager

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from losslab.config.messages import sentence
from losslab.config.paths import CONF


@contextmanager
def composing() -> Iterator[None]:
    """Let `hydra.compose` find conf/ while this is open; ValueError, one sentence, for what does not compose.

    Where Hydra runs the command, its own search path stays.
    """
    try:
        if GlobalHydra.instance().is_initialized():
            yield
        else:
            with initialize_config_dir(str(CONF), version_base="1.3"):
                yield
    except (HydraException, OmegaConfBaseException, OverflowError) as error:
        raise ValueError(sentence(error)) from None
