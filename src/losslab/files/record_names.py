"""The version and the file names of a record that several packages use."""

RECORD_VERSION = 1  # of the JSON files of a record; a file without a version is of version 0
# In the folder of a cell:
VALIDATION = "validation.jsonl"  # metrics on its held-out rows
TOKENS = "tokens.json"  # of some examples after training
PROBABILITIES = "probabilities.json"  # of the targets before and after training
KL_TO_BASE = "kl_to_base.json"
