"""Objectives in trainers of others."""
