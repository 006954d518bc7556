"""Prompts with answers to other prompts, on which KTO measures how far a policy has moved from its reference."""

from dataclasses import replace

import numpy as np

from losslab.data.examples import Examples


def mismatched(examples: Examples) -> Examples:
    """Each prompt with the answer of the nearest earlier example that has another prompt; the search wraps around from
    the first example to the last. Rows are cut at the length of the longest example.

    Raises ValueError for conversations of several trained turns, and where all examples have one prompt.
    """
    if examples.trained is not None:
        raise ValueError("rows with several trained turns have no single answer that another prompt could have")
    starts = examples.offsets[:-1] + examples.prompts
    prompts = [examples.tokens[a:b] for a, b in zip(examples.offsets[:-1], starts, strict=True)]
    asked = [examples.content(i)[1] for i in range(len(examples))]
    answers = [examples.tokens[a:b] for a, b in zip(starts, examples.offsets[1:], strict=True)]
    before = np.arange(len(examples)) - 1  # negative ones count from the end
    for i in range(len(examples)):
        while asked[before[i]] == asked[i]:
            before[i] = before[i - 1] if i else before[i] - 1
            if before[i] < -len(examples):
                raise ValueError("all rows have one prompt, and answers to other prompts are needed")
    longest = int(examples.lengths.max())
    parts = [np.concatenate([prompts[i], answers[j]])[:longest] for i, j in enumerate(before)]
    offsets = np.r_[0, np.cumsum([len(part) for part in parts])]
    return replace(examples, tokens=np.concatenate(parts), offsets=offsets, rewards=None, weights=None)
