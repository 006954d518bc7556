"""What the hub has: models are asked for once before their files are, and a hub that is silent costs one wait.

Many clusters drop what their nodes send outside. The libraries would wait and ask again, minutes for each file.
"""

import os
import re
import threading
from functools import cache
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import huggingface_hub as hub  # which imports its parts at their first use
from huggingface_hub import constants

from losslab.config.log import log
from losslab.config.messages import first_line
from losslab.config.schema import ModelConfig
from losslab.files import refuse_pickled_weights

HUB_SECONDS = 15  # that the hub may take for an answer
COMMIT = re.compile("[0-9a-f]{40}")


@cache
def silence() -> str | None:
    """Why the hub cannot be reached, else None. Where it cannot, sets the libraries to use their caches alone."""
    if constants.is_offline_mode():
        return "HF_HUB_OFFLINE is set"
    said = Queue[str | None]()
    # In a thread, since a library's patience is for each address that a name has.
    threading.Thread(target=lambda: said.put(_ask()), daemon=True).start()
    try:
        failure = said.get(timeout=HUB_SECONDS)
    except Empty:
        failure = "timed out"
    if failure is None:
        return None
    os.environ["HF_HUB_OFFLINE"] = "1"  # for child processes
    constants.HF_HUB_OFFLINE = True
    log.warning(f"{constants.ENDPOINT}: {failure}; only what was downloaded is used")
    return f"{constants.ENDPOINT} does not answer"


def _ask() -> str | None:
    """What keeps the hub from answering: no network, no name, no certificate. Any answer is one."""
    try:
        hub.get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS)
    except Exception as error:
        return first_line(error)
    return None


def check_model(model: ModelConfig) -> None:
    """Raise ValueError when neither a folder nor the hub has a model, or it has no weights that are safe to read."""
    place = f"model.path={model.path}"
    folder = Path(model.path)
    if folder.is_dir():
        refuse_pickled_weights(place, (file.name for file in folder.iterdir()))
        return
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(model.path)
    except HFValidationError as error:
        raise ValueError(f"{place} is no folder here and no name of a model on the hub: {first_line(error)}") from None
    silent = silence()
    if isinstance(hub.try_to_load_from_cache(model.path, "config.json", revision=model.revision), str):
        return
    if silent:
        raise ValueError(f"{place} is no folder here, and was not downloaded before: {silent}")
    try:
        about = hub.HfApi().model_info(model.path, revision=model.revision, timeout=HUB_SECONDS)
    except Exception as error:  # of many kinds, all of which mean this
        raise ValueError(f"{place} is no folder here, and the hub does not give it: {first_line(error)}") from None
    refuse_pickled_weights(place, (file.rfilename for file in about.siblings or ()))


def load_dataset(path: str, subset: str | None = None, *, split: str, revision: str | None) -> Any:
    """A split of a data set of the hub, or of a folder in its form."""
    silent = None if Path(path).is_dir() else silence()
    import datasets

    datasets.config.HF_HUB_OFFLINE = constants.is_offline_mode()  # which it read when it was imported
    try:
        dataset = datasets.load_dataset(path, subset, split=split, revision=revision)
    except ConnectionError:
        if silent is None:
            raise
        raise ValueError(f"it was not downloaded before: {silent}") from None
    pinned = silent and revision is not None and COMMIT.fullmatch(revision)
    if pinned and not all(revision in file["filename"] for file in dataset.cache_files):  # the library takes any
        raise ValueError(f"its revision {revision} was not downloaded before: {silent}")
    return dataset
