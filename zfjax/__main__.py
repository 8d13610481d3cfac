"""Run `python -m zfjax` as `zfjax`."""

from zfjax.cli import main

main()
