"""Generation with transformers, for where vLLM is not: slower, and the same records."""

import math
from collections.abc import Collection, Iterator, Mapping
from itertools import groupby
from typing import Any

import torch

from losslab.data import processors
from losslab.evaluation.engine_interface import TOO_LONG, Completion, Job, Request, dtype_of, request_seed, takes_images
from losslab.evaluation.images import opened

BATCH = 64  # sequences that transformers runs at once
NEAR = 32  # tokens: prompts whose lengths are this near may have answers of the same length
PICTURED = 16  # sequences with images, whose patches all pass the vision tower at once


def run(job: Job, requests: list[Request], on_gpu: bool) -> Iterator[list[Completion]]:
    """Yields an empty list when ready, then the samples of a batch of requests of similar length."""
    from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

    model, tokenizer = load_model(job, on_gpu)
    # Its file may hold a repetition penalty and the like, which no protocol names and vLLM does not apply.
    model.generation_config = GenerationConfig()
    processor = load_processor(job) if any(request.images for request in requests) else None
    sampling = job.sampling
    room = model.config.get_text_config().max_position_embeddings
    yield []
    for batch in batches(requests, room, sampling.max_new_tokens):
        stop, ends = (*sampling.stop, *batch[0].stop), {*sampling.stop_ids, *batch[0].stop_ids}
        pad = min(ends, default=0)
        if batch[0].images:
            batch, beyond, inputs = fitting(batch, processor, job.image_arguments, room)
            yield [Completion(request.key, "", 0, TOO_LONG) for request in beyond]
        else:
            inputs = padded([request.prompt for request in batch], pad)
        if not batch:
            continue
        width = inputs["input_ids"].shape[1]
        settings = GenerationConfig(
            max_new_tokens=answer_limit(
                width if batch[0].images else len(batch[0].prompt), room, sampling.max_new_tokens
            ),
            do_sample=False,
            eos_token_id=sorted(ends) or None,
            pad_token_id=pad,
        )
        seeds = [request_seed(sampling.seed, r.key) if r.seed is None else r.seed for r in batch]
        noise = LogitsProcessorList()
        if sampling.temperature > 0:
            noise.append(Noise(sampling.temperature, sampling.top_p, seeds, model.device))
        with torch.inference_mode():
            output = model.generate(
                **{name: _moved(value, model) for name, value in inputs.items()},
                generation_config=settings,
                logits_processor=noise,
                stopping_criteria=StoppingCriteriaList([Stops(stop, width, tokenizer)] if stop else []),
            )
        rows = output[:, width:].tolist()
        yield [_finished(request.key, row, stop, ends, tokenizer) for request, row in zip(batch, rows, strict=True)]


def load_model(job: Job, on_gpu: bool) -> tuple[Any, Any]:
    """The model of a job, ready to run, and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

    if job.threads and not on_gpu:
        torch.set_num_threads(job.threads)
    options: dict[str, Any] = {"revision": job.revision, "trust_remote_code": job.trust_remote_code}
    tokenizer = AutoTokenizer.from_pretrained(job.model, **options)
    options |= {"dtype": dtype_of(job, on_gpu), "use_safetensors": True}  # pickled weights can run code
    pictured = takes_images(job.model, job.revision, job.trust_remote_code)
    kind: Any = AutoModelForImageTextToText if pictured else AutoModelForCausalLM
    model: Any = kind.from_pretrained(job.model, **options)
    return model.eval().to("cuda" if on_gpu else "cpu"), tokenizer


def load_processor(job: Job) -> Any:
    """What places images in a prompt and makes patches of them, which pads on the left."""
    processor = processors.load(job.model, job.revision, job.trust_remote_code)
    processor.tokenizer.padding_side = "left"
    if processor.tokenizer.pad_token is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    return processor


def fitting(
    batch: list[Request], processor: Any, arguments: Mapping[str, Any], room: int
) -> tuple[list[Request], list[Request], dict[str, torch.Tensor]]:
    """Requests whose prompt leaves room for an answer, with their images, the others, and the inputs of the first."""
    inputs = processed(batch, processor, arguments)
    fits = (inputs["attention_mask"].sum(1) < room).tolist()
    if all(fits):
        return batch, [], inputs
    parts = [[request for request, fit in zip(batch, fits, strict=True) if fit == wanted] for wanted in (True, False)]
    return parts[0], parts[1], processed(parts[0], processor, arguments) if parts[0] else {}


def _moved(value: torch.Tensor, model: Any) -> torch.Tensor:
    """A tensor where the model is, and pixels as precise as its weights."""
    return value.to(model.device, model.dtype if value.is_floating_point() else None)


def processed(batch: list[Request], processor: Any, arguments: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """What the model takes of texts with images: patches, and token ids in which each image has as many as it fills."""
    pictures = [[opened(image) for image in request.images] for request in batch]
    texts = [request.text for request in batch]
    options = {**arguments, "add_special_tokens": False, "padding": True, "return_tensors": "pt"}
    return dict(processor(images=pictures, text=texts, **options))


def padded(prompts: list[list[int]], pad: int) -> dict[str, torch.Tensor]:
    """Token ids of prompts, the longest last, padded on the left."""
    width = len(prompts[-1])
    return {
        "input_ids": torch.tensor([[pad] * (width - len(ids)) + ids for ids in prompts]),
        "attention_mask": torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts]),
    }


def answer_limit(prompt: int, room: int, limit: int) -> int:
    """The tokens that an answer to a prompt of so many may have in a context of `room`.

    Where fewer than `limit` are left, the prompt counts as long as the next multiple of NEAR, if that is in the
    context, so that prompts of similar length share a batch. Whatever its batch, a prompt of text has the same.
    """
    rounded = -(-prompt // NEAR) * NEAR
    return max(1, min(limit, room - prompt if prompt + limit <= room or rounded >= room else room - rounded))


def batches(requests: list[Request], room: int, limit: int) -> Iterator[list[Request]]:
    """Requests that end alike and whose answers have the same limit, in batches of similar length."""

    def alike(request: Request) -> tuple[Any, ...]:
        return *_ends(request), answer_limit(len(request.prompt), room, limit)

    for _, group in groupby(sorted(requests, key=alike), key=alike):
        ordered = sorted(group, key=lambda request: len(request.prompt))
        size = PICTURED if ordered[0].images else BATCH
        for start in range(0, len(ordered), size):
            yield ordered[start : start + size]


def _ends(request: Request) -> tuple[tuple[str, ...], tuple[int, ...], bool]:
    return request.stop, request.stop_ids, bool(request.images)


def _finished(key: int, ids: list[int], stop: Collection[str], ends: Collection[int], tokenizer: Any) -> Completion:
    """One row of a padded batch, cut where its sample ended."""
    end = next((i for i, token in enumerate(ids) if token in ends), None)
    text = tokenizer.decode(ids[:end], skip_special_tokens=True)
    cut = min((text.find(part) for part in stop if part in text), default=None)
    if cut is not None:
        lengths = (len(tokenizer.decode(ids[:n], skip_special_tokens=True)) for n in range(1, len(ids) + 1))
        tokens = next(n for n, length in enumerate(lengths, start=1) if length > cut)
        return Completion(key, text[:cut], tokens, "stop")
    if end is None:
        return Completion(key, text, len(ids), "length")
    return Completion(key, text, end + 1, "stop", end_token=ids[end])


class Stops:
    """Ends a row whose answer holds a stop text; that of transformers also finds one that begins in the prompt."""

    def __init__(self, stop: Collection[str], width: int, tokenizer: Any) -> None:
        self.stop, self.width, self.tokenizer = stop, width, tokenizer
        self.longest = max(len(text.encode()) for text in stop)  # tokens; each that shows has a byte at least

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        ends = input_ids[:, max(self.width, input_ids.shape[1] - self.longest) :].tolist()
        # What the last tokens alone decode to may differ where they begin: the whole answer decides.
        stopped = [self._stops(end) and self._stops(input_ids[i, self.width :].tolist()) for i, end in enumerate(ends)]
        return torch.tensor(stopped, device=input_ids.device)

    def _stops(self, ids: list[int]) -> bool:
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        return any(part in text for part in self.stop)


class Noise:
    """Sampling from the softmax as the arg max of perturbed logits (Gumbel-max), with a generator for each row: the
    sample of a request does not depend on its batch. A logits processor for greedy decoding; it draws on the device of
    the logits, so that a GPU does not wait.
    """

    def __init__(self, temperature: float, top_p: float, seeds: list[int], device: torch.device) -> None:
        self.temperature, self.top_p = temperature, top_p
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.float() / self.temperature  # (batch, vocabulary)
        if self.top_p < 1:
            values, order = scores.softmax(-1).sort(descending=True)
            beyond = values.cumsum(-1) - values >= self.top_p
            scores = scores.masked_fill(beyond.scatter(-1, order, beyond), -math.inf)
        noise = torch.empty_like(scores)
        for row, generator in zip(noise, self.generators, strict=True):
            row.exponential_(generator=generator)
        return scores - noise.log_()
