"""`plan check=true`: the check that training begins with, for every model and data set of a sweep, before any training.

It prepares the data and loads the models, on this machine, as training would, and keeps them only in the cache.
"""

import hashlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch.distributed as dist

from losslab.cells.training import base_model, merged_reference, prepared
from losslab.composition.checks import check_alone
from losslab.config.messages import first_line
from losslab.config.schema import Config
from losslab.data.examples import Examples
from losslab.distributed.launch import launch
from losslab.distributed.process_group import WorkerError
from losslab.files.json_files import read_json, write_json
from losslab.files.locks import lock
from losslab.models.loading import load_model, load_tokenizer
from losslab.models.policy import build
from losslab.objectives.online import PPO, OnPolicy
from losslab.online import padding_check
from losslab.planning.sizing import sized
from losslab.training import packing_check
from losslab.training.image_rows import readable
from losslab.training.loop import start


def show(configs: list[Config]) -> int:
    """Say for each model and data set how it would be trained, or why not; the exit status is 1 where one cannot be.

    Raises ValueError under torchrun or srun, whose processes are the workers of a training.
    """
    check_alone("check=true")
    refused = False
    for config in {_about(config): config for config in configs if config.trains}.values():
        name = f"{config.names.model} on {config.names.dataset}"
        try:
            told = check(config)
        except (ValueError, WorkerError) as error:
            told, refused = f"refused: {first_line(error)}", True
        print(f"check of {name}: {told}", flush=True)
    return int(refused)


def check(config: Config) -> str:
    """What the check says of one model and data set. Raises ValueError or WorkerError where they cannot be trained."""
    config = config.seeded
    online = isinstance(config.objective, OnPolicy)
    key = hashlib.sha256(_about(config).encode()).hexdigest()[:16]
    folder = Path(config.machine.results) / "cache" / "checks" / key
    with lock(folder):
        config = replace(config, model=base_model(config), reference=merged_reference(config))
        data, _ = prepared(config, folder)
        worker = check_padding if online else check_packing
        file = folder / "check.json"
        launch(worker, sized(config), data, str(file), machine=config.machine, logs=folder / "logs")
        result = read_json(file)
    return _online(result) if online else _packed(result)


def check_packing(config: Config, data: str, file: str) -> None:
    """Check the model of a configuration on this rank, on a folder of `Examples`; rank 0 writes `file`."""
    device = start(config)
    policy = build(config, device, reference=False)
    examples = readable(Examples.load(Path(data)), config.model, policy.model)
    result = packing_check.check(policy, examples, device)
    if dist.get_rank() == 0:
        write_json(Path(file), asdict(result))
    dist.barrier()


def check_padding(config: Config, data: str, file: str) -> None:
    """The same for online training, on a folder of `questions`."""
    from datasets import load_from_disk

    device = start(config)
    model = load_model(config.model, packed=False).eval()
    model.to(device)  # type: ignore[arg-type]  # its wrapper hides that it is a method
    prompts = padding_check.two_prompts(load_from_disk(data)["prompt"], load_tokenizer(config.model))
    result = padding_check.check(model, prompts)
    if dist.get_rank() == 0:
        write_json(Path(file), asdict(result))
    dist.barrier()


def _about(config: Config) -> str:
    """What the check depends on; the value of a seed that is null does not count: all pass or fail alike."""
    data = replace(config.dataset, validation=None)
    train, kinds = config.train, [isinstance(config.objective, kind) for kind in (OnPolicy, PPO)]  # PPO: a value model
    recipe = [train.precision, train.weights, train.max_length, train.overlong, kinds]
    return repr([config.model, config.reference, data, config.adapter, recipe, config.machine.device])


def _packed(result: dict[str, Any]) -> str:
    agreement = result["agreement"]
    measured = (
        f"log-probabilities differ by {agreement['logp']:.1e} and gradients by {agreement['gradient']:.1e} from the "
        f"model's own forward over {agreement['tokens']} tokens"
    )
    if result["packed"]:
        return f"exact, packed; {measured}"
    return f"exact, and not packed, which is slower; {measured}; packed: {next(iter(result['failed'].values()), 'no')}"


def _online(result: dict[str, Any]) -> str:
    return (
        f"exact; padded on the left, log-probabilities differ by {result['logp']:.1e} from those of each prompt alone, "
        f"over {result['tokens']} tokens"
    )
