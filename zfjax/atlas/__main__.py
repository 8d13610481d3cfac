"""`python -m zfjax.atlas`."""

from zfjax.atlas import main
from zfjax.console import command, signals

if __name__ == "__main__":
    signals.listen()
    command.execute(main)
