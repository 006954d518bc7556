"""The verbs of the command `losslab`, one module each, whose docstring is its usage."""
