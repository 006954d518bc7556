"""Time and memory of one loss, forward and backward: the operator of losslab beside other ways, in one run.

    python benchmarks/loss.py                                   # CPU or CUDA, whatever is there
    python benchmarks/loss.py --tokens 4096 --width 1536

Each contestant lives in a process of its own, so that its peak memory is its own, and the processes take turns step by
step, so that a noise of the machine meets all of them. Prints a table and writes it to results/benchmarks/.
"""

import argparse
import importlib.util
import multiprocessing
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from losslab.models.fused_loss import Head, objective_loss
from losslab.objectives import Context, Objective
from losslab.objectives.dft import DFT
from losslab.objectives.sft import SFT

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
    return torch.stack([checkpoint(chunk, h, low, t, use_reentrant=False) for h, t in parts]).sum()  # type: ignore[misc]


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


def liger_sft(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction as Fused

    low = weight.to(hidden.dtype)
    return Fused.apply(hidden, low, targets, None, None, -100, 0.0, 0.0, "sum")[0]


CONTESTANTS: dict[str, Step] = {
    "losslab, SFT": losslab(SFT()),
    "losslab, DFT": losslab(DFT()),
    "full logits, SFT": full_sft,
    "full logits and softmax, DFT (official)": full_dft,
    "chunks under checkpoint, DFT": checkpointed_dft,
}
if hasattr(torch.nn, "LinearCrossEntropyOptions"):
    CONTESTANTS["torch linear_cross_entropy, SFT"] = torch_sft
if importlib.util.find_spec("trl"):
    CONTESTANTS["TRL chunked log-probabilities, DFT"] = trl_dft
if torch.cuda.is_available():
    CONTESTANTS["full logits under torch.compile, DFT"] = torch.compile(full_dft)
    if importlib.util.find_spec("liger_kernel"):
        CONTESTANTS["Liger fused linear cross-entropy, SFT"] = liger_sft


def resident() -> int:
    """Bytes of memory in use by this process, as a peak on systems that do not say what is in use now."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    return peak_resident()


def peak_resident() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def work(name: str, args: argparse.Namespace, pipe: Connection) -> None:
    """Takes a step for each message that comes, and answers with its seconds, its loss and the peak memory so far."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)  # the same numbers for all
    device = torch.device(args.device)
    weight = torch.empty(args.vocabulary, args.width, device=device).normal_(std=0.05).requires_grad_()
    hidden = torch.randn(args.tokens, args.width, device=device).to(getattr(torch, args.dtype)).requires_grad_()
    targets = torch.randint(args.vocabulary, (args.tokens,), device=device)
    before = torch.cuda.memory_allocated() if device.type == "cuda" else resident()
    while pipe.recv():
        hidden.grad = weight.grad = None
        start = time.perf_counter()
        loss = CONTESTANTS[name](hidden, weight, targets)
        loss.backward()
        value = loss.item()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else peak_resident()
        pipe.send((seconds, value, peak - before))


def measure(args: argparse.Namespace) -> dict[str, tuple[float, float, float]]:
    """Of each contestant: best seconds of a step, loss per token, peak extra bytes."""
    spawn = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    results: dict[str, tuple[float, float, float]] = {}
    workers = []
    for name in CONTESTANTS:
        pipes[name], theirs = spawn.Pipe()
        workers.append(spawn.Process(target=work, args=(name, args, theirs), daemon=True))
        workers[-1].start()
        theirs.close()
    for turn in range(args.repeats + 1):
        for name, pipe in list(pipes.items()):
            try:
                pipe.send(True)
                seconds, loss, extra = pipe.recv()
            except (EOFError, BrokenPipeError):
                print(f"{name}: failed, see its error above", file=sys.stderr)
                del pipes[name]
                results.pop(name, None)
                continue
            best = results[name][0] if turn > 1 else float("inf")  # the first turn warms up
            results[name] = (min(best, seconds), loss / args.tokens, extra)
    for pipe in pipes.values():
        pipe.send(False)
    for worker in workers:
        worker.join()
    return results


def table(results: dict[str, tuple[float, float, float]], args: argparse.Namespace) -> str:
    base_seconds, _, base_extra = results["losslab, DFT"]
    lines = [
        "| contestant | ms per step | against losslab | peak extra MB | against losslab | loss per token |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, (seconds, loss, extra) in sorted(results.items(), key=lambda item: item[1][0]):
        lines.append(
            f"| {name} | {seconds * 1e3:.0f} | {seconds / base_seconds:.2f} | {extra / 2**20:.0f} "
            f"| {extra / base_extra:.2f} | {loss:.4g} |"
        )
    logits = args.tokens * args.vocabulary * 4 / 2**20
    gradient = args.width * args.vocabulary * 4 / 2**20
    libraries = [f"{name} {version(name)}" for name in ("torch", "trl", "liger-kernel") if _installed(name)]
    return "\n".join(
        [
            f"# Time and memory of one loss, forward and backward ({args.device})",
            "",
            f"{args.tokens} answer tokens, width {args.width}, vocabulary {args.vocabulary}, hidden states in "
            f"{args.dtype}, float32 master weight; best of {args.repeats} steps, in turns. For scale: the weight's "
            f"float32 gradient takes {gradient:.0f} MB, float32 logits of all tokens {logits:.0f} MB.",
            "",
            *lines,
            "",
            f"`{' '.join(['python benchmarks/loss.py', *sys.argv[1:]])}`",
            "",
            f"{_processor(args)}, {os.cpu_count()} cores, {args.threads} threads, load {os.getloadavg()[0]:.1f} "
            f"at the end, {platform.system()}, Python {platform.python_version()}, {', '.join(libraries)}.",
            "",
        ]
    )


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name.replace("-", "_")) is not None


def _processor(args: argparse.Namespace) -> str:
    if args.device == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if "model name" in line] if info.exists() else []
    return names[0].split(":")[1].strip() if names else platform.processor()


def main() -> None:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if cuda else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--tokens", type=int, default=8192 if cuda else 1024, help="answer tokens of the micro-batch")
    parser.add_argument("--width", type=int, default=1536 if cuda else 384, help="hidden width")
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"], help="of the hidden states")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    text = table(measure(args), args)
    print(text)
    path = Path(__file__).parents[1] / "results" / "benchmarks" / f"loss-{args.device}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


if __name__ == "__main__":
    main()
