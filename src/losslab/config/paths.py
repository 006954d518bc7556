"""The repository's folders of configuration files, and which names are valid for folders of results."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]  # of the repository
CONF = ROOT / "conf"
EXPERIMENTS = ROOT / "experiments"


def names_folder(name: str) -> bool:
    """Whether a name, such as a sweep's, is valid for a subfolder: no `..`, no absolute path, no pattern."""
    parts = name.split("/")
    return all(part and part[0] not in ". " and part.isprintable() and not set(part) & set("*?[\\") for part in parts)
