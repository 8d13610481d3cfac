"""`python -m zfjax.atlas`."""

from zfjax.atlas import main
from zfjax.console import command

raise SystemExit(command.run(main))
