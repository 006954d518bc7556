"""The arithmetic of PPO beyond the clipped objective: advantages from values, and the terms of the value loss."""

import torch
from torch import Tensor


def generalised_advantages(rewards: Tensor, values: Tensor, mask: Tensor, decay: float) -> Tensor:
    """(B, T) advantages of answers with one reward each, at their last token; zero where the mask is.

    Args:
        rewards: (B,) float32.
        values: (B, T) float32, of the state before each token; zero where the mask is.
        mask: (B, T), 1 for the tokens of an answer, which come first.
        decay: lambda of generalised advantage estimation (arXiv 1506.02438); the discount is 1.
    """
    last = mask.sum(1) - 1
    result = torch.zeros_like(values)
    running, following = torch.zeros_like(rewards), torch.zeros_like(rewards)
    for t in reversed(range(values.shape[1])):
        surprise = rewards * (last == t) + following - values[:, t]
        running = (surprise + decay * running) * mask[:, t]
        following = values[:, t]
        result[:, t] = running
    return result


def value_terms(values: Tensor, before: Tensor, returns: Tensor, clip: float) -> Tensor:
    """(B, T): half the squared error of `values`, or of `values` clipped to within `clip` of `before`, whichever is
    larger."""
    near = before + (values - before).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns).square(), (near - returns).square())
