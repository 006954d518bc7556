"""Where the repository keeps its configuration files."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]  # of the repository
CONF = ROOT / "conf"
EXPERIMENTS = ROOT / "experiments"
