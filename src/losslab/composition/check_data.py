"""Checks of a data set before its rows are read."""

import re
from pathlib import Path

from losslab.config.choices import SampleRules
from losslab.config.messages import under_key
from losslab.config.schema import EMBEDDED, Config, DatasetConfig
from losslab.data.table import held_out_file, local_files, unanswered
from losslab.objectives.online import OnPolicy


def check_held_out(config: Config) -> None:
    """Refuse held-out rows that are missing, that nothing would measure, or that are the training rows."""
    dataset = config.dataset
    if dataset.validation is None:
        return
    if isinstance(config.objective, OnPolicy):
        raise ValueError(
            f"loss={config.names.loss} learns from answers that it samples, and has no loss of held-out rows: leave "
            "dataset.validation out"
        )
    if (elsewhere := held_out_file(dataset)) is None:
        return
    if elsewhere.path in (EMBEDDED, ""):
        raise ValueError(f"dataset.validation={elsewhere.path}: set it to a share of the rows, as 0.1, or to a file")
    if elsewhere.path == dataset.path:
        raise ValueError(
            "dataset.validation and dataset.path are the same: set a share of the rows, as 0.1, or another file"
        )
    with under_key("dataset.validation", "dataset.path"):
        local_files(elsewhere)


def check_rules(dataset: DatasetConfig) -> None:
    """Refuse keys that the rules by which sampled answers are verified do not read."""
    if dataset.rules != SampleRules.code:
        if dataset.stop:
            raise ValueError("dataset.stop is for answers that are code: set dataset.rules=code too, or leave it out")
        return
    unread = {"gold_column": dataset.gold_column, "prompt": dataset.prompt}
    unread |= {"prompt_column": None if dataset.prompt_column == "prompt" else dataset.prompt_column}
    for name, value in unread.items():
        if value not in (None, getattr(DatasetConfig(), name)):
            raise ValueError(f"dataset.rules=code reads the column prompt, not dataset.{name}={value}: leave that out")


def check_data(config: Config) -> None:
    """Refuse a data set whose local files are missing; a plan may be made before the model's own answers exist."""
    dataset, names = config.dataset, config.names
    if not dataset.path:
        raise ValueError("dataset.path is empty: set it to a hub id, a file, or a folder of data")
    for column, pattern in dataset.keep.items():
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"dataset.keep.{column} is not a regular expression ({error}): correct it") from None
    if Path.cwd().is_relative_to(Path(dataset.path).absolute()) and Path(dataset.path).is_dir():
        raise ValueError(
            f"dataset.path={dataset.path} contains the current folder: name the folder that holds the data alone"
        )
    check_held_out(config)
    if not unanswered(dataset):
        local_files(dataset)
    elif not config.plan:
        model = names.model if names.sampled == names.model else config.model.path
        raise ValueError(
            f"{dataset.path} is not there yet: losslab sample model={model} dataset={dataset.source} makes it"
        )
