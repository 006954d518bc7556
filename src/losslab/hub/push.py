"""Uploads a cell's model to the hub: its files, its model card, and parts of its record."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.utils import validate_repo_id

from losslab.config.messages import first_line
from losslab.files.atomic import write
from losslab.files.json_files import write_json
from losslab.hub.eval_results import FOLDER, write_eval_results
from losslab.hub.model_card import card, public, scored
from losslab.records.record import Cell

OURS = ("losslab/", f"{FOLDER}/")  # folders of a repository that a push alone fills
WEIGHTS = (".safetensors", ".safetensors.index.json")


def push(cell: str, repo: str, licence: str, *, dry_run: bool, private: bool = False, revision: str = "main") -> None:
    """Upload a trained cell in one commit; with `dry_run` write the card and print what would be uploaded.

    The commit also removes the weights, scores and record of another model that was uploaded there before.

    Raises ValueError if there is no such cell or model, if the hub refuses the name or the upload, or if a repository
    that is to be private is public.
    """
    validate_repo_id(repo)
    if "/" not in repo:
        raise ValueError(f"repo={repo} has no user: write repo=USER/NAME")
    files = stage(Path(cell).resolve(), repo, licence, revision)
    earlier: list[str] = []
    if not dry_run:
        with _refusals(repo):
            api = HfApi()
            api.create_repo(repo, private=private, exist_ok=True)
            public = private and not api.repo_info(repo).private  # `exist_ok` leaves one that exists as it is
        if public:
            raise ValueError(
                f"{repo} exists and is public: leave private=true out, make it private there, or name another repo"
            )
        with _refusals(repo):
            earlier = [name for name in api.list_repo_files(repo, revision=revision) if name not in files]
            earlier = [name for name in earlier if of_upload(name)]
            added = [CommitOperationAdd(name, str(path)) for name, path in files.items()]
            removed = [CommitOperationDelete(name) for name in earlier]
            message = f"{Path(cell).resolve().name} of losslab"
            api.create_commit(repo, [*added, *removed], commit_message=message, revision=revision)
    size = sum(path.stat().st_size for path in files.values())
    print(f"{'would upload' if dry_run else 'uploaded'} {len(files)} files, {size / 1e6:,.1f} MB, to {repo}:")
    for name, path in files.items():
        print(f"  {name}  {path.stat().st_size:,}")
    if earlier:
        print(f"removed {len(earlier)} file{'s' * (len(earlier) > 1)} of an earlier upload")
    print(f"model card: {files['README.md']}")
    print("to upload: repeat without dry_run=true" if dry_run else f"page: https://huggingface.co/{repo}", flush=True)


@contextmanager
def _refusals(repo: str) -> Iterator[None]:
    """Raise what the hub answers as one sentence."""
    try:
        yield
    except Exception as error:  # many kinds: no login, no network, no permission
        raise ValueError(f"the hub refuses {repo}: {first_line(error)}") from None


def of_upload(name: str) -> bool:
    """Whether a file of a repository is a part of a record, or holds weights that transformers would load."""
    return name.startswith(OURS) or ("/" not in name and name.endswith(WEIGHTS))


def stage(folder: Path, repo: str, licence: str, revision: str = "main") -> dict[str, Path]:
    """The files to upload to a branch, by their name there. Writes the card and the record's parts to <cell>/hub."""
    if not (folder / "cell.json").is_file():
        raise ValueError(f"{folder} is not the folder of a cell: give one of results/cells")
    cell = Cell.at(folder)
    if not cell.model.is_dir():
        raise ValueError(f"{folder.name} has no model: train it first, or give another cell")
    staging = folder / "hub"
    shutil.rmtree(staging, ignore_errors=True)  # of an earlier push
    write(staging / "README.md", str(card(cell, repo, licence)))
    write(staging / "losslab/config.yaml", yaml.safe_dump(public(cell), sort_keys=False, allow_unicode=True))
    for protocol, scores in scored(cell).items():
        write_json(staging / f"losslab/scores/{protocol}.json", scores)
    results = write_eval_results(cell, staging, repo, revision)
    written = [staging / "README.md", *results, *sorted((staging / "losslab").rglob("*.*"))]
    files = {str(path.relative_to(staging)): path for path in written if path.is_file()}
    model = sorted(path for path in cell.model.rglob("*") if path.is_file())  # chat templates may lie in a folder
    files |= {path.relative_to(cell.model).as_posix(): path for path in model}
    if cell.metrics.exists():
        files["losslab/metrics.jsonl"] = cell.metrics
    return files
