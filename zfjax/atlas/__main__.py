"""`python -m zfjax.atlas`."""

from zfjax import command
from zfjax.atlas import main

raise SystemExit(command.run(main))
