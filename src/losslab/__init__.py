"""losslab: which objective should I fine-tune a language model with?"""

__version__ = "0.1.0"
