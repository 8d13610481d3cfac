"""`python -m zfjax.compare`."""

if __name__ == "__main__":  # before the imports, which take time
    from zfjax.console import signals

    signals.listen()

from zfjax.compare import main
from zfjax.console import command

if __name__ == "__main__":
    command.execute(main)
