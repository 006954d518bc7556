"""Rows become token ids, and token ids become the micro-batches of a step."""
