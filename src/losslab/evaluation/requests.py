"""What an engine is asked for the samples that are missing: its job, and a request for each."""

import os
from collections.abc import Sequence
from typing import Any

from losslab.config.schema import Config
from losslab.data.prompts import encode, opening
from losslab.evaluation import protocol as protocols
from losslab.evaluation.engine_interface import Endpoint, Job, Request, Sampling, context_length
from losslab.evaluation.samples import Key
from losslab.evaluation.write_scores import Subject


def job(subject: Subject, sampling: Sampling) -> Job:
    machine = subject.config.machine
    return Job(
        subject.model,
        sampling,
        threads=machine.threads,
        device=machine.device,
        tensor_parallel=machine.tensor_parallel,
        image_arguments=subject.config.model.image_arguments,
        endpoint=_endpoint(subject.config, subject.model) if subject.tokenizer is None else None,
        **protocols.source(subject.config, subject.model),
    )


def to_model(subject: Subject, missing: Sequence[Key], seeds: Sequence[int | None]) -> list[Request]:
    """The requests for the missing samples, except those whose prompt fills the context."""
    room = context_length(subject.model, **protocols.source(subject.config, subject.model))
    texts = list(subject.prompts.values())
    ids = dict(zip(subject.prompts, encode(texts, subject.tokenizer), strict=True))
    start = subject.tokenizer.decode(opening(texts, subject.tokenizer))
    stops = {name: protocols.split_stops(prompt.stop, subject.tokenizer) for name, prompt in subject.framed.items()}
    images = {(b.name, p.index): p.images for b in subject.chosen for p in b.problems}
    asked = []
    for i, key in enumerate(missing):
        prompt, (stop, stop_ids) = ids[key[:2]], stops[key[0]]
        text = start + subject.prompts[key[:2]] if images[key[:2]] else ""
        if len(prompt) < room:  # an engine sees how much the images add
            asked.append(Request(i, prompt, seeds[i], stop, stop_ids, text, images=images[key[:2]]))
    return asked


def to_endpoint(subject: Subject, missing: Sequence[Key], seeds: Sequence[int | None]) -> list[Request]:
    """What an endpoint is asked: an answer in a conversation where the prompt is the chat template's, else a text."""
    images = {(b.name, p.index): p.images for b in subject.chosen for p in b.problems}
    asked = []
    for i, key in enumerate(missing):
        prompt, text = subject.framed[key[0]], subject.prompts[key[:2]]
        about: dict[str, Any] = {"chat": prompt.chat, "earlier": prompt.earlier, "images": images[key[:2]]}
        asked.append(Request(i, [], seeds[i], prompt.stop, text=text, **about))
    return asked


def _endpoint(config: Config, model: str) -> Endpoint:
    """The endpoint of engine=api, with the key of the environment; vLLM's own server needs none."""
    machine = config.machine
    assert machine.api_url is not None  # composition.checks
    return Endpoint(
        machine.api_url,
        machine.api_model or model,
        machine.api_concurrency,
        machine.api_retries,
        os.environ.get("OPENAI_API_KEY") or "none",
        config.model.template_arguments,
    )
