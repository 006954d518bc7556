"""Time and memory of one loss, forward and backward: the operator of losslab beside other ways, in one command.

    python benchmarks/loss.py                            # CPU or CUDA, whatever is there
    python benchmarks/loss.py --shapes 4096x1536x151936  # answer tokens x hidden width x vocabulary

Contestants run one after another, so that each has the machine and its memory to itself. On a CPU each has a process of
its own, since a process keeps its peak memory. On CUDA all share one process, are timed by device events and take three
turns, since a card slows down as it gets warm. Prints a table and writes it to results/benchmarks/.
"""

import argparse
import importlib.util
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from losslab.models.fused_loss import Head, objective_loss
from losslab.objectives import Context, Objective
from losslab.objectives.dft import DFT
from losslab.objectives.sft import SFT
from losslab.records.environment import processor

Step = Callable[[Tensor, Tensor, Tensor], Tensor]  # hidden (N, D), float32 weight (V, D), targets (N,) -> summed loss


def losslab(objective: Objective) -> Step:
    def step(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        context = Context(sequence=torch.zeros_like(targets), sequences=1)
        return objective_loss(objective, hidden, Head(weight), targets, context).loss

    return step


def full_sft(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The usual way: logits of all tokens, then float32."""
    return F.cross_entropy((hidden @ weight.to(hidden.dtype).T).float(), targets, reduction="sum")


def full_dft(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The way of the official code: as above, and a softmax of all logits to read one probability of each row."""
    logits = (hidden @ weight.to(hidden.dtype).T).float()
    losses = F.cross_entropy(logits, targets, reduction="none")
    weights = torch.softmax(logits, -1).gather(1, targets[:, None]).squeeze(1).detach()
    return (weights * losses).sum()


def checkpointed_dft(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The simple remedy: chunks of 256 tokens, whose logits are computed again in backward."""
    low = weight.to(hidden.dtype)

    def chunk(hidden: Tensor, low: Tensor, targets: Tensor) -> Tensor:
        logp = -F.cross_entropy((hidden @ low.T).float(), targets, reduction="none")
        return -(logp.detach().exp() * logp).sum()

    parts = zip(hidden.split(256), targets.split(256), strict=True)
    return torch.stack([checkpoint(chunk, h, low, t, use_reentrant=False) for h, t in parts]).sum()


def torch_sft(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """torch.nn.functional.linear_cross_entropy in its chunked form, gradients in forward."""
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=256)  # its own choice took over 40 s for 128 tokens
    return F.linear_cross_entropy(hidden, weight.to(hidden.dtype), targets, reduction="sum", options=options)


def trl_dft(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """TRL's chunked log-probabilities, tiled over the vocabulary, at answer positions only, with its `dft` loss."""
    from trl.kernels import ChunkedLogProbFunction
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE as width

    low = weight.to(hidden.dtype)
    logp = ChunkedLogProbFunction.apply(hidden, low, None, targets, 1.0, width, None, 1.0, ("entropy", "is_top1"))[0]
    return -(logp.exp().detach() * logp).sum()


def liger(token_scaling: bool) -> Step:
    """Liger's fused linear cross-entropy; scaled by the token's probability it is its DFT."""

    def step(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction as Fused

        # No bias, class weights, smoothing, z-loss, soft cap; and the gradient summed in the dtype of the weight.
        options = (None, None, -100, 0.0, 0.0, "sum", None, False, None, token_scaling)
        return Fused.apply(hidden, weight.to(hidden.dtype), targets, *options)[0]

    return step


def contestants() -> dict[str, Step]:
    """Those that can run here, by the name of their row."""
    steps: dict[str, Step] = {
        "losslab, SFT": losslab(SFT()),
        "losslab, DFT": losslab(DFT()),
        "full logits, SFT": full_sft,
        "full logits and softmax, DFT (official)": full_dft,
        "chunks under checkpoint, DFT": checkpointed_dft,
    }
    if torch.cuda.is_available():
        steps["full logits under torch.compile, DFT"] = torch.compile(full_dft, dynamic=False)
        if _installed("liger-kernel"):
            steps["Liger fused linear cross-entropy, SFT"] = liger(False)
            steps["Liger fused linear cross-entropy, DFT"] = liger(True)
    elif hasattr(torch.nn, "LinearCrossEntropyOptions"):
        steps["torch linear_cross_entropy, SFT"] = torch_sft
    if _installed("trl"):
        steps["TRL chunked log-probabilities, DFT"] = trl_dft
    return steps


@dataclass(frozen=True)
class Shape:
    tokens: int
    width: int
    vocabulary: int

    @classmethod
    def parse(cls, text: str) -> "Shape":
        tokens, width, vocabulary = map(int, text.split("x"))
        return cls(tokens, width, vocabulary)

    def __str__(self) -> str:
        return f"{self.tokens} x {self.width} x {self.vocabulary}"


@dataclass(frozen=True)
class Result:
    seconds: list[float]  # of each step
    loss: float  # per token
    extra: int  # bytes at the peak, beyond hidden states and weight


def measure(name: str, shape: Shape, device: str, dtype: torch.dtype, repeats: int) -> Result:
    """Steps of a contestant, after two that warm up, and the memory that they take, in this process."""
    step = contestants()[name]
    torch.manual_seed(0)  # the same numbers for all
    weight = torch.empty(shape.vocabulary, shape.width, device=device).normal_(std=0.05).requires_grad_()
    hidden = torch.randn(shape.tokens, shape.width, device=device).to(dtype).requires_grad_()
    targets = torch.randint(shape.vocabulary, (shape.tokens,), device=device)
    before = _resident(device)
    seconds, loss = [], torch.zeros(())
    for turn in range(2 + repeats):
        hidden.grad = weight.grad = None
        stop = _clock(device)
        loss = step(hidden, weight, targets)
        loss.backward()  # type: ignore[no-untyped-call]
        elapsed = stop()
        seconds += [elapsed] if turn > 1 else []
    return Result(seconds, loss.item() / shape.tokens, _peak(device) - before)


def _clock(device: str) -> Callable[[], float]:
    """Starts to measure; what it returns gives the seconds since then, in which the device worked."""
    if device == "cpu":
        start = time.perf_counter()
        return lambda: time.perf_counter() - start
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()

    def stop() -> float:
        last.record()
        last.synchronize()
        return first.elapsed_time(last) / 1e3

    return stop


def _resident(device: str) -> int:
    """Bytes in use, from which the peak is counted: on a system that does not say so, the peak until now."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * resource.getpagesize() if statm.exists() else _peak(device)


def _peak(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def in_turns(shape: Shape, args: argparse.Namespace, turns: int = 3) -> dict[str, Result | str]:
    """Results on CUDA, or why there is none."""
    results: dict[str, Result | str] = {}
    for name in list(contestants()) * turns:
        last = results.get(name)
        if isinstance(last, str):
            continue
        torch.cuda.empty_cache()
        try:
            result = measure(name, shape, args.device, getattr(torch, args.dtype), args.repeats)
            seconds = (last.seconds if last else []) + result.seconds
            results[name] = Result(seconds, result.loss, min(result.extra, last.extra) if last else result.extra)
        except Exception as error:  # of one contestant, which does not stop the others
            results[name] = "out of memory" if isinstance(error, torch.cuda.OutOfMemoryError) else repr(error)[:80]
    return results


def in_processes(shape: Shape, args: argparse.Namespace) -> dict[str, Result | str]:
    """Results on a CPU, or why there is none."""
    results: dict[str, Result | str] = {}
    spawn = multiprocessing.get_context("spawn")
    for name in contestants():
        with ProcessPoolExecutor(1, spawn, torch.set_num_threads, (args.threads,)) as process:
            call = process.submit(measure, name, shape, args.device, getattr(torch, args.dtype), args.repeats)
            error = call.exception()
            results[name] = call.result() if error is None else repr(error)[:80]
    return results


def table(shape: Shape, results: dict[str, Result | str], args: argparse.Namespace) -> str:
    """Times are the median on CUDA, and the best on a CPU, which others disturb."""
    middle = statistics.median if args.device == "cuda" else min
    times = {name: middle(each.seconds) for name, each in results.items() if isinstance(each, Result)}
    extra = {name: each.extra for name, each in results.items() if isinstance(each, Result)}
    base = "losslab, DFT"
    logits, gradient = (4 * n * shape.vocabulary / 1e9 for n in (shape.tokens, shape.width))
    lines = [
        f"## {shape}",
        "",
        f"The weight's float32 gradient takes {gradient:.2f} GB, float32 logits of all tokens {logits:.2f} GB.",
        "",
        "| contestant | ms per step | against losslab | peak extra GB | against losslab | loss per token |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, result in sorted(results.items(), key=lambda item: times.get(item[0], float("inf"))):
        if isinstance(result, str):
            lines.append(f"| {name} | {result} | | | | |")
        else:
            lines.append(
                f"| {name} | {times[name] * 1e3:.1f} | {times[name] / times[base]:.2f} | {extra[name] / 1e9:.2f} "
                f"| {extra[name] / extra[base]:.2f} | {result.loss:.4g} |"
            )
    return "\n".join([*lines, ""])


def describe(args: argparse.Namespace) -> str:
    """What was measured, how and on what."""
    libraries = [f"{name} {version(name)}" for name in ("torch", "triton", "trl", "liger-kernel") if _installed(name)]
    times = f"median of {3 * args.repeats} steps in three turns" if args.device == "cuda" else f"best of {args.repeats}"
    host = f"{os.cpu_count()} cores, {args.threads} threads, load {os.getloadavg()[0]:.1f} at the end, "
    return "\n".join(
        [
            f"# Time and memory of one loss, forward and backward ({args.device})",
            "",
            "Shapes are answer tokens x hidden width x vocabulary. Hidden states are "
            f"{args.dtype}, the weight is a float32 master; {times}, contestants one after another.",
            "",
            f"`{' '.join(['python benchmarks/loss.py', *sys.argv[1:]])}`",
            "",
            f"{_processor(args.device)}, {'' if args.device == 'cuda' else host}{platform.system()}, "
            f"Python {platform.python_version()}, {', '.join(libraries)}.",
            "",
        ]
    )


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name.replace("-", "_")) is not None


def _processor(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else processor()


def main() -> None:
    cuda = torch.cuda.is_available()
    shapes = ["8192x1536x151936", "32768x1536x151936", "8192x4096x128256"] if cuda else ["1024x384x151936"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if cuda else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--shapes", type=Shape.parse, nargs="+", default=[Shape.parse(shape) for shape in shapes])
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"], help="of the hidden states")
    parser.add_argument("--repeats", type=int, default=3, help="steps of each contestant, in each turn")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    run = in_turns if args.device == "cuda" else in_processes
    tables = [table(shape, run(shape, args), args) for shape in args.shapes]
    text = "\n".join([describe(args), *tables])
    print(text)
    folder = Path(os.environ.get("OUT", Path(__file__).parents[1] / "results/benchmarks"))
    path = folder / f"loss-{args.device}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


if __name__ == "__main__":
    main()
