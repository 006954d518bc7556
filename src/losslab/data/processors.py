"""The processor of a vision-language model: it places images in a text, and makes of their pixels what a model reads.

For training and evaluation alike.
"""

from importlib.util import find_spec
from typing import Any

VIDEO = "video_processor"  # the part of a processor that needs torchvision, and that is not used here


def reads_images(config: Any) -> bool:
    """Whether a model of this configuration is loaded with a part that reads images."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING as TEXT
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING as PICTURED

    return type(config) in PICTURED and TEXT.get(type(config), PICTURED[type(config)]) is PICTURED[type(config)]


def load(model: str, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """A checkpoint's own processor; without torchvision the same without its part for videos. Raises what it raises."""
    from transformers import AutoConfig, AutoProcessor
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    source: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    family: Any = AutoProcessor
    if not find_spec("torchvision"):
        family = of_images(PROCESSOR_MAPPING[type(AutoConfig.from_pretrained(model, **source))])
    return family.from_pretrained(model, **source)


def of_images(family: Any) -> Any:
    """A class of processors without its part for videos."""
    attributes = [name for name in family.get_attributes() if name != VIDEO]
    return type(family.__name__, (family,), {"get_attributes": classmethod(lambda _: attributes)})
