"""What is asked of an engine, and what comes back."""

import hashlib
from dataclasses import dataclass, field
from typing import Any

import torch

from losslab.config.choices import Device
from losslab.config.messages import first_line
from losslab.data.processors import reads_images

TOO_LONG = "too_long"  # the finish reason of a problem that does not fit the context


@dataclass(frozen=True)
class Sampling:
    """What shapes the text of every sample."""

    temperature: float
    top_p: float
    max_new_tokens: int
    stop: tuple[str, ...] = ()  # texts that end a sample; they are not part of it
    stop_ids: tuple[int, ...] = ()  # tokens that end a sample
    seed: int = 0  # of the engine, for requests without one


@dataclass(frozen=True)
class Request:
    key: int
    prompt: list[int]  # token ids
    seed: int | None = None
    stop: tuple[str, ...] = ()  # besides those of all samples
    stop_ids: tuple[int, ...] = ()
    text: str = ""  # the prompt of an endpoint, in place of token ids; or with images, which a processor places there
    chat: bool = False  # it is a user's message, which the endpoint puts into the model's chat template
    earlier: list[dict[str, str]] = field(default_factory=list)  # messages of the chat before it
    images: tuple[bytes, ...] = field(default=(), repr=False)  # encoded, in the order of their places in the text


@dataclass(frozen=True)
class Completion:
    key: int
    text: str
    tokens: int  # the one that ended it is counted
    finish_reason: str  # stop | length, or what else an endpoint says
    prompt_tokens: int | None = None  # as an endpoint counts them; None of other engines
    end_token: int | None = None  # the one that ended it; None where it was cut, ended by a text, or of an endpoint


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible endpoint and what is asked of it."""

    url: str
    model: str  # its name there
    concurrency: int  # requests at once
    retries: int  # of a request that fails for a while
    key: str = field(repr=False)  # no record and no message has it
    template_arguments: dict[str, Any] = field(default_factory=dict)  # of the chat template


@dataclass(frozen=True)
class Job:
    """A model, and what every sample of it has in common."""

    model: str
    sampling: Sampling
    revision: str | None = None
    trust_remote_code: bool = False
    threads: int | None = None  # CPU threads of an engine; None = all
    device: Device = Device.auto
    tensor_parallel: int = 1  # GPUs that share one vLLM engine
    endpoint: Endpoint | None = None  # of engine=api
    image_arguments: dict[str, Any] = field(default_factory=dict)  # of the processor's call


def request_seed(*parts: Any) -> int:
    """A seed from what names it, such as seed, benchmark, problem and number of a sample: the same everywhere."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:4])


def takes_images(model: str, revision: str | None = None, trust_remote_code: bool = False) -> bool:
    """Whether transformers has a model for images and text of this kind. Raises ValueError for one without a config."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise ValueError(f"the configuration of {model} cannot be loaded: {first_line(error)}") from None
    return reads_images(config)


def architecture(model: str, revision: str | None, trust_remote_code: bool) -> Any:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=trust_remote_code)
    return config.get_text_config()


def dtype_of(job: Job, on_gpu: bool) -> torch.dtype:
    """That of the checkpoint, but bfloat16 for float32 on a GPU. Left alone, vLLM halves float32 on a CPU too."""
    published = getattr(architecture(job.model, job.revision, job.trust_remote_code), "dtype", None) or torch.float32
    return torch.bfloat16 if on_gpu and published == torch.float32 else published


def context_length(model: str, revision: str | None = None, trust_remote_code: bool = False) -> int:
    """Tokens of prompt and sample that the model takes."""
    return architecture(model, revision, trust_remote_code).max_position_embeddings
