"""What the methods of an objective return, checked: a usual mistake is one sentence, and no wrong loss.

The checks read shapes and not values, so that the host waits for no device.
"""

from losslab.objectives import Distributions, Objective, Targets, Tensor, torch


def terms_of(objective: Objective, t: Targets) -> Tensor:
    """The terms of the loss: (N,), or with scope "sequence" also (S,) or, of pairs, (S/2,).

    Raises ValueError for anything else, and for terms without a gradient where the log-probabilities have one.
    """
    terms: object = objective.loss(t)
    shapes, wanted = [(len(t.logp),)], "one term for each token, of the shape of t.logp"
    if objective.scope != "sequence":
        wanted += ', or set scope = "sequence" for one for each sequence'
    elif "pairs" in objective.needs:
        shapes += [(t.sequences,), (t.sequences // 2,)]
        wanted += f", one for each of {t.sequences} sequences, or one for each pair"
    else:
        shapes.append((t.sequences,))
        wanted += f", or one for each of {t.sequences} sequences"
    if not isinstance(terms, torch.Tensor) or tuple(terms.shape) not in shapes:
        raise ValueError(
            f"{_method(objective, 'loss')} returns {_described(terms)} for {len(t.logp)} tokens: return {wanted}"
        )
    if t.logp.requires_grad and not terms.requires_grad:
        raise ValueError(
            f"{_method(objective, 'loss')} has no gradient: let it depend on t.logp, t.reference_kl or t.row_term, and "
            "not only through t.p or what is detached"
        )
    return terms


def statistic_of(objective: Objective, probabilities: Tensor) -> Tensor:
    """(R,) the objective's statistic of (R, V) probabilities. Raises ValueError for another shape."""
    assert objective.statistic is not None
    return _per_token(objective, "statistic", objective.statistic(probabilities), len(probabilities))


def row_term_of(objective: Objective, d: Distributions) -> Tensor:
    """(R,) the objective's row term. Raises ValueError for another shape, and without a gradient where `d` has one."""
    assert objective.row_term is not None
    term = _per_token(objective, "row_term", objective.row_term(d), len(d.target))
    if d.logp.requires_grad and not term.requires_grad:
        raise ValueError(
            f"{_method(objective, 'row_term')} has no gradient: let it depend on d.logp or d.logsumexp, not detached"
        )
    return term


def metrics_of(objective: Objective, t: Targets) -> list[Tensor]:
    """(N,) of each metric, detached. Raises ValueError where `measure` does not return them."""
    values: object = objective.measure(t)
    if not isinstance(values, tuple | list) or len(values) != len(objective.metrics):
        raise ValueError(
            f"{_method(objective, 'measure')} does not return what `metrics` names: return a tuple of "
            f"{len(objective.metrics)} tensors"
        )
    return [_per_token(objective, "measure", value, len(t.logp)).detach() for value in values]


def _per_token(objective: Objective, method: str, values: object, tokens: int) -> Tensor:
    if not isinstance(values, torch.Tensor) or tuple(values.shape) != (tokens,):
        raise ValueError(
            f"{_method(objective, method)} returns {_described(values)} for {tokens} tokens: return one number for each"
        )
    return values


def _method(objective: Objective, name: str) -> str:
    return f"{type(objective).__name__}.{name}"


def _described(value: object) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else f"{value!r:.40}"
