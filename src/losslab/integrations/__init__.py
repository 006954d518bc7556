"""Objectives in the trainers of transformers and TRL."""
