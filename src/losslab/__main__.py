"""`python -m losslab` is the command `losslab`."""

from losslab.commands.cli import main

if __name__ == "__main__":  # worker processes import this file too
    main()
