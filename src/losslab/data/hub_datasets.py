"""Access to the hub: a model is looked up before its files are requested, and an unreachable hub costs one wait.

Many clusters drop outgoing packets of their nodes; the libraries would then wait and retry, minutes for each file.
"""

import os
import re
import threading
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import huggingface_hub as hub  # which imports its parts at their first use
from huggingface_hub import constants

from losslab.config.log import log
from losslab.config.messages import first_line
from losslab.config.schema import ModelConfig

HUB_SECONDS = 15  # the longest wait for an answer of the hub
COMMIT = re.compile("[0-9a-f]{40}")


@cache
def silence() -> str | None:
    """Why the hub cannot be reached, or None. If it cannot, restricts the libraries to their caches."""
    if constants.is_offline_mode():
        return "HF_HUB_OFFLINE is set"
    said = Queue[str | None]()
    # In a thread, since the library's timeout applies to each address of a host name.
    threading.Thread(target=lambda: said.put(_ask()), daemon=True).start()
    try:
        failure = said.get(timeout=HUB_SECONDS)
    except Empty:
        failure = "timed out"
    if failure is None:
        return None
    os.environ["HF_HUB_OFFLINE"] = "1"  # for child processes
    constants.HF_HUB_OFFLINE = True
    log.warning(f"{constants.ENDPOINT}: {failure}; only downloaded files are used")
    return f"{constants.ENDPOINT} does not answer"


def _ask() -> str | None:
    """The error that keeps the hub from answering (network, name, certificate), or None on any answer."""
    try:
        hub.get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS)
    except Exception as error:
        return first_line(error)
    return None


def check_model(model: ModelConfig) -> None:
    """Raise ValueError if neither a folder nor the hub has the model, or all of its weights are pickled."""
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
        raise ValueError(f"{place} is neither a local folder nor a hub id: {first_line(error)}") from None
    silent = silence()
    adapter = f"{place} is an adapter: download it, and name its folder"  # which is merged into its base
    if isinstance(hub.try_to_load_from_cache(model.path, "adapter_config.json", revision=model.revision), str):
        raise ValueError(adapter)
    if isinstance(hub.try_to_load_from_cache(model.path, "config.json", revision=model.revision), str):
        return
    if silent:
        raise ValueError(f"{place} is not a local folder and was not downloaded before: {silent}")
    try:
        about = hub.HfApi().model_info(model.path, revision=model.revision, timeout=HUB_SECONDS)
    except Exception as error:  # many kinds, all of which mean this
        raise ValueError(f"{place} is not a local folder, and the hub refuses it: {first_line(error)}") from None
    names = [file.rfilename for file in about.siblings or ()]
    if "adapter_config.json" in names:
        raise ValueError(adapter)
    refuse_pickled_weights(place, names)


def load_dataset(path: str, subset: str | None = None, *, split: str, revision: str | None) -> Any:
    """A split of a hub data set, or of a local folder with the same structure."""
    silent = None if Path(path).is_dir() else silence()
    import datasets

    datasets.config.HF_HUB_OFFLINE = constants.is_offline_mode()  # the library read it at its import
    try:
        dataset = datasets.load_dataset(path, subset, split=split, revision=revision)
    except ConnectionError:
        if silent is None:
            raise
        raise ValueError(f"it was not downloaded before: {silent}") from None
    pinned = silent and revision is not None and COMMIT.fullmatch(revision)
    if pinned and not all(revision in file["filename"] for file in dataset.cache_files):  # any revision is accepted
        raise ValueError(f"its revision {revision} was not downloaded before: {silent}")
    return dataset


def refuse_pickled_weights(model: str, names: Iterable[str]) -> None:
    """Raise ValueError if the files of a model hold weights in pickled formats only, and none as safetensors."""
    endings = {name.rpartition(".")[2] for name in names}
    if "safetensors" not in endings and endings & {"bin", "pt", "pth", "ckpt"}:
        raise ValueError(f"{model} has no safetensors weights: convert them, since pickled files can run code")
