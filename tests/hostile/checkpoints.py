"""Checkpoints of a stranger with a correct seal, and damaged ones, before a run that would go on from them."""

import json
import os
import pickle
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import torch
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from hostile.case import Case
from hostile.entry import call
from hostile.files import as_bytes, as_text, link, missing
from hostile.models import Payload
from hostile.values import draw, json_values
from losslab.training.checkpoint_files import MANIFEST, seal

TENSORS = "rank-00000.safetensors"


def start() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    return model, torch.optim.AdamW(model.parameters(), lr=0.1)


def checkpoints(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer):
    """Those of a run on one rank, whose process group begins here."""
    import torch.distributed as dist

    from losslab.training.checkpoints import Checkpoints

    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(probe.getsockname()[1])}
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1"}
    dist.init_process_group("gloo")
    return Checkpoints(folder, model, optimizer, torch.device("cpu"), keep_last=2, keep_every=None)


def template(folder: Path) -> None:
    """Two checkpoints of a small run, with the weights of each beside them."""
    model, optimizer = start()
    with checkpoints(folder / "checkpoints", model, optimizer) as kept:
        for step in (1, 2):
            model(torch.ones(1, 4)).sum().backward()
            optimizer.step()
            kept.save(step)
            kept.finish()
            torch.save({name: value.clone() for name, value in model.state_dict().items()}, folder / f"{step}.weights")


def resealed(checkpoint: Path, **changes: object) -> None:
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text())
    except ValueError:
        return
    (checkpoint / MANIFEST).unlink()
    seal(checkpoint, {key: value for key, value in manifest.items() if key not in ("sha256", "files")} | changes)


def with_file(name: str, writer: Callable[[Path], None], sealed: bool) -> Callable[[Path], None]:
    def damage(checkpoint: Path) -> None:
        path = checkpoint / name
        path.unlink(missing_ok=True)
        writer(path)
        if sealed and name != MANIFEST and path.is_file():
            resealed(checkpoint)

    return damage


def with_tensors(change: Callable[[dict[str, torch.Tensor]], object], offsets: object = None) -> Callable[[Path], None]:
    def damage(checkpoint: Path) -> None:
        tensors = load_file(checkpoint / TENSORS)
        change(tensors)
        places = {name: {"saved_offsets": [0] * value.ndim} for name, value in tensors.items()}
        text = json.dumps(places if offsets is None else offsets)
        save_file(tensors, checkpoint / TENSORS, {"format": "pt", "DCP_SHARDING_INFO": text})
        resealed(checkpoint)

    return damage


def listed() -> dict[str, Callable[[Path], None]]:
    payload = as_bytes(pickle.dumps(Payload()))
    damages: dict[str, Callable[[Path], None]] = {}
    writers = {"missing": missing, "empty": as_bytes(b""), "null": as_text("null"), "a pickle": payload, "a link": link,
               "zero bytes": as_bytes(b"\0" * 999), "nested": as_text("[" * 20000), "a list": as_text("[]"),
               "a large header": as_bytes(b"\xff" * 8 + b"{}")}  # fmt: skip
    for title, writer in writers.items():
        for name in (TENSORS, MANIFEST):
            damages[f"{name}: {title}"] = with_file(name, writer, sealed=False)
        damages[f"{TENSORS}, sealed: {title}"] = with_file(TENSORS, writer, sealed=True)
    for name in (".metadata", "__0_0.distcp", "0.pt", "more.safetensors", "code.py"):
        damages[f"{name}, sealed: a pickle"] = with_file(name, payload, sealed=True)
        damages[f"{name}: a pickle"] = with_file(name, payload, sealed=False)
    damages |= {
        "a tensor less": with_tensors(lambda tensors: tensors.pop("model.0.weight")),
        "another shape": with_tensors(lambda tensors: tensors.update({"model.0.weight": torch.zeros(3, 5)})),
        "another type": with_tensors(lambda tensors: tensors.update({"model.0.weight": torch.zeros(3, 4).double()})),
        "no tensors": with_tensors(lambda tensors: tensors.clear()),
        "a random state of nothing": with_tensors(
            lambda tensors: tensors.update({"random.0.cpu": torch.zeros(5056).byte()})
        ),
    }
    for title, offsets in {
        "a list": [],
        "texts": {"model.0.weight": "x"},
        "negative": {"model.0.weight": [-1, 0]},
    }.items():
        damages[f"offsets: {title}"] = with_tensors(lambda tensors: None, offsets)
    return damages


def cases(count: int, folder: Path) -> list[Case]:
    damages = list(listed().items())[:count]
    keys = st.sampled_from(["step", "ranks", "device", "version", "values", "more", "files"])
    for key, value in draw(st.tuples(keys, json_values()), count - len(damages), 5) if count > len(damages) else []:
        change = {key: value}
        damages.append(
            (f"manifest, sealed: {change!r}"[:100], lambda checkpoint, change=change: resealed(checkpoint, **change))
        )
    return [make(title, damage, folder) for title, damage in damages]


def make(title: str, damage: Callable[[Path], None], template_folder: Path) -> Case:
    def prepare(folder: Path) -> None:
        shutil.copytree(template_folder / "checkpoints", folder / "results/checkpoints")
        damage(folder / "results/checkpoints/step-00000002")

    def resume() -> None:
        model, optimizer = start()
        with checkpoints(Path("results/checkpoints"), model, optimizer) as kept:
            step = kept.resume()
            expected = torch.load(template_folder / f"{step}.weights")
            assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
            print(f"goes on after step {step}")

    def kept(folder: Path, output: str) -> str | None:
        whole = "goes on after step 2" in output or "goes on after step 1" in output or "cannot be read now" in output
        return None if whole else f"lost: no checkpoint was taken: {output[-300:]}"

    return Case("checkpoint", title, call(resume), ("step-00000002",), prepare, verify=kept)
