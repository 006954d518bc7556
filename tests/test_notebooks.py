"""The notebooks as they stand, executed on the records of a small sweep that one of them runs."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

SMALL = "PRETRAIN, ROWS, SAMPLES = 640, 640, 1"  # a few steps


def execute(notebook: Path, folder: Path, parameters: str) -> str:
    """What the cells of a notebook print and show, with parameters in place of its own; an image shows as [image].

    A cell that raises fails the test.
    """
    content = nbformat.read(notebook, as_version=4)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in content.cells), "stored with outputs"
    (place,) = [cell for cell in content.cells if "parameters" in cell.metadata.get("tags", [])]
    place.source += f"\n{parameters}"
    NotebookClient(content, timeout=550, resources={"metadata": {"path": folder}}).execute()
    shown = []
    for output in (output for cell in content.cells for output in cell.get("outputs", [])):
        data = output.get("data", {})
        shown.append(output.get("text") or data.get("text/markdown") or data.get("text/plain", ""))
        shown += ["[image]"] if "image/png" in data else []
    return "\n".join(shown)


@pytest.fixture(scope="module")
def written(root, tmp_path_factory) -> tuple[Path, str]:
    """The folder of the notebook that adds an objective, and what it shows."""
    folder = tmp_path_factory.mktemp("notebooks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(root / "src"), os.environ.get("PYTHONPATH", "")]))
        shown = execute(root / "notebooks/add_an_objective.ipynb", folder, SMALL)
    (own,) = folder.glob("losslab-*")
    return own, shown


@pytest.mark.drill
def test_an_objective_is_written_trained_and_in_the_table(written):
    folder, shown = written
    rows = [line.split("|")[2].strip() for line in shown.splitlines() if line.startswith("| tiny |")]
    assert sorted(rows) == ["base", "dft", "mixture", "sft"]
    assert shown.count("[image]") == 1 and "mixture    below 0.1%" in shown
    states = list(folder.glob("results/cells/*mixture-s0-*/model/model.safetensors"))
    assert len(states) == 1


@pytest.mark.parametrize(
    ("name", "images", "told"),
    [
        ("read_an_ablation", 1, "B - A"),
        ("what_an_objective_does_to_probabilities", 3, "above 90%"),
    ],
)
def test_records_are_read(root, written, tmp_path, name, images, told):
    folder, _ = written
    parameters = f"from pathlib import Path\nRESULTS, SWEEP = Path({str(folder / 'results')!r}), 'mixture'"
    shown = execute(root / f"notebooks/{name}.ipynb", tmp_path, parameters)
    assert shown.count("[image]") == images and told in shown
    assert all(f"{objective:<20} " in shown for objective in ("sft", "dft", "mixture"))
