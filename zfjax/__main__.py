"""`python -m zfjax` is `zfjax`."""

from zfjax.cli import main

main()
