"""What the same `losslab train` would do and need; loads nothing."""

from losslab.commands import train


def main(arguments: list[str]) -> None:
    train.main([*arguments, "plan=true"])
