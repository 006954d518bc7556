"""The processor of a model that reads images: loaded from the checkpoint, and written beside an exported model."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from losslab.config.messages import first_line
from losslab.config.schema import EMBEDDED_VISION, ModelConfig
from losslab.data import processors, toy_pictures
from losslab.data.hub_datasets import check_model
from losslab.data.image_inputs import ImageInputs
from losslab.models.loading import load_config, quiet

FILES = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
TEMPLATE = "chat_template.jinja"


def load_processor(model: ModelConfig) -> Any | None:
    """The checkpoint's own processor (transformers' AutoProcessor); None for a model that reads no images, or that
    has none.

    Without torchvision it is the same without its part for videos. Raises ValueError for one that cannot be loaded, or
    that does not say what stands for an image.
    """
    if model.path == EMBEDDED_VISION:
        return toy_pictures.processor()
    if not processors.reads_images(load_config(model)) or not _files(model):
        return None
    try:
        with quiet():
            processor = processors.load(model.path, model.revision, model.trust_remote_code)
    except Exception as error:
        why = first_line(error) + ("" if find_spec("torchvision") else "; some need torchvision: install it")
        raise ValueError(f"no processor can be loaded from model.path={model.path}: {why}") from error
    if not getattr(processor, "image_token", None):
        raise ValueError(f"the processor of model.path={model.path} names no image_token: choose another model")
    return processor


def image_inputs(model: ModelConfig) -> ImageInputs | None:
    """What makes tokens of a model's images; None for one that reads none. Raises ValueError as `load_processor`."""
    processor = load_processor(model)
    return ImageInputs(processor, model.image_arguments) if processor else None


def write_processor(model: ModelConfig, folder: Path) -> None:
    """Put a model's processor into the folder of one that was trained from it, with the chat template that it has.

    Nothing is written for a model of texts alone.
    """
    if not processors.reads_images(load_config(model)):
        return
    if model.path == EMBEDDED_VISION:
        toy_pictures.processor().image_processor.save_pretrained(folder)
    else:
        for file in _files(model):
            (folder / file.name).write_bytes(file.read_bytes())
    processor = load_processor(model)
    if processor is not None and processor.chat_template:
        (folder / TEMPLATE).write_text(processor.chat_template, encoding="utf-8")


def _files(model: ModelConfig) -> list[Path]:
    """What describes the processor of a checkpoint, beside its tokenizer; none where it has none."""
    check_model(model)
    options: dict[str, Any] = {"revision": model.revision} if model.revision else {}
    there = (
        cached_file(
            model.path,
            name,
            **options,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        for name in FILES
    )
    return [Path(file) for file in there if file]
