"""Generation by an OpenAI-compatible endpoint: a model that is served, here or by others."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from losslab.config.messages import among, first_line
from losslab.data.images import parts
from losslab.evaluation.engine_interface import TOO_LONG, Completion, Endpoint, Job, Request
from losslab.evaluation.images import data_url

TIMEOUT_SECONDS = 3600.0  # of one answer, which may be long
TOLD = 10  # models of an endpoint that a message names
# What servers say of a prompt, or of a prompt and its answer, that do not fit.
CONTEXT = re.compile(r"context.length|context.window|max_model_len|maximum context|prompt is too long", re.I)


def run(job: Job, requests: list[Request], on_gpu: bool) -> Iterator[list[Completion]]:
    """Yields an empty list when the endpoint responds and serves the model, then each sample as it comes.

    Requests that fail for a while (a full server, a lost connection) are sent again, each after a longer wait.

    Raises:
        RuntimeError: the endpoint cannot be reached, or refuses the key, the model or a request.
    """
    import openai

    endpoint = job.endpoint
    assert endpoint is not None
    client = openai.OpenAI(
        base_url=endpoint.url, api_key=endpoint.key, max_retries=endpoint.retries, timeout=TIMEOUT_SECONDS
    )
    try:
        _check_model(client, endpoint)
        yield []
        with ThreadPoolExecutor(endpoint.concurrency) as pool:
            answers = [pool.submit(_answer, client, job, request) for request in requests]
            try:
                for answer in as_completed(answers):
                    yield [answer.result()]
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
    except openai.AuthenticationError as error:
        raise RuntimeError(f"{endpoint.url} refuses the key in OPENAI_API_KEY ({_reason(error)})") from None
    except openai.APIStatusError as error:
        raise RuntimeError(f"{endpoint.url} refuses a request ({_reason(error)})") from None
    except openai.APIConnectionError as error:
        reason = first_line(error.__cause__ if isinstance(error.__cause__, Exception) else error)
        raise RuntimeError(f"{endpoint.url} cannot be reached ({reason}): check machine.api_url") from None


def _check_model(client: Any, endpoint: Endpoint) -> None:
    """Refuse a model that the endpoint's list lacks; not every endpoint has a list."""
    import openai

    try:
        names = [model.id for model in client.models.list()]
    except openai.NotFoundError:
        return
    if names and endpoint.model not in names:
        others = among(endpoint.model, names[:TOLD])
        raise RuntimeError(f"{endpoint.url} has no model {endpoint.model}{others}; set machine.api_model")


def _answer(client: Any, job: Job, request: Request) -> Completion:
    import openai

    limit = job.sampling.max_new_tokens
    try:
        return _ask(client, job, request, limit)
    except openai.BadRequestError as error:
        if not CONTEXT.search(str(error)):
            raise
        refused = _reason(error)
    try:
        _ask(client, job, request, 1)
    except openai.BadRequestError as error:
        if not CONTEXT.search(str(error)):
            raise
        return Completion(request.key, "", 0, TOO_LONG, 0)
    raise RuntimeError(f"prompt and eval.max_new_tokens={limit} do not fit the served context ({refused}): lower it")


def _ask(client: Any, job: Job, request: Request, limit: int) -> Completion:
    """One request, of a conversation or of a text that is continued."""
    assert job.endpoint is not None
    sampling, stop = job.sampling, [*job.sampling.stop, *request.stop]
    # Without a seed of its own a request has none: with one for all, a server answers the same text k times.
    seed = sampling.seed if request.seed is None and not sampling.temperature else request.seed
    options: dict[str, Any] = {
        "model": job.endpoint.model,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        **({} if seed is None else {"seed": seed}),
        **({"stop": stop} if stop else {}),
    }
    if request.chat:
        arguments = job.endpoint.template_arguments
        options |= {"extra_body": {"chat_template_kwargs": arguments}} if arguments else {}
        messages: list[Any] = [*request.earlier, {"role": "user", "content": _content(request)}]
        answer = client.chat.completions.create(messages=messages, max_completion_tokens=limit, **options)
    else:
        answer = client.completions.create(prompt=request.text, max_tokens=limit, **options)
    usage, choices = (getattr(answer, name, None) for name in ("usage", "choices"))
    if not usage or not choices:
        lacks = "choices" if usage else "usage"
        raise RuntimeError(f"{job.endpoint.url} answers without {lacks}: give the address of an endpoint that has it")
    if usage.completion_tokens > limit + 1:  # some count the token that ends an answer
        raise RuntimeError(
            f"{job.endpoint.url} answered with {usage.completion_tokens} tokens: it ignores the limit of {limit}"
        )
    choice = choices[0]
    text = (choice.message.content or "") if request.chat else choice.text
    return Completion(request.key, text, usage.completion_tokens, choice.finish_reason, usage.prompt_tokens)


def _content(request: Request) -> str | list[dict[str, Any]]:
    """The text of a user's message, or its parts, with images as data URLs in their places."""
    if not request.images:
        return request.text
    return [
        part if part["type"] == "text" else {"type": "image_url", "image_url": {"url": data_url(part["image"])}}
        for part in parts(request.text, request.images)
    ]


def _reason(error: Any) -> str:
    """What the server says in the body of an error, else its status."""
    body = error.body if isinstance(error.body, dict) else {}
    return str(body.get("message") or first_line(error))
