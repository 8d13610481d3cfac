"""The live page in a notebook's cell."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from etils import epath

from zfjax.explore import opening
from zfjax.explore.saving import Origin
from zfjax.models.model import Model
from zfjax.runs.looking import Squares, alone, look
from zfjax.runs.subject import Subject

if TYPE_CHECKING:
    from zfjax.explore.serving import Served


def explore(
    model: Model | Subject,
    pictures: epath.PathLike | Sequence[epath.PathLike] | Squares | None = None,
    *,
    layers: Sequence[str] = (),
    inline: bool | None = None,
    **options: Any,
) -> "Served":
    """Look at pictures through a model in a page: in a notebook below the cell, in a script in the browser.

    All programs are compiled first, which takes a minute or two.

    Args:
        model: any `zfjax.Model`, or a run's split with its pictures, such as `zfjax.open_run("runs/shapes").val`.
        pictures: as `zfjax.look` takes them, to begin with and to look through for what excites each map most; default
            those of the split, or none.
        layers: whose strongest patches are looked for; default those that are like the paper's layers 1 to 5.
        inline: whether to show the page below the cell; default where there is one.
        **options: `host`, `port`, `megabytes` and `title`, as `zfjax explore` has them.

    Returns:
        The page, which this process serves until `close()`.

    Raises:
        UserError: Gradio is not installed, the model does not know what to make of pictures, or they cannot be read.
    """
    opening.require_gradio()
    from zfjax.explore import serving

    if isinstance(model, Subject):
        subject = model if pictures is None else look(model.model, pictures).val
    else:
        subject = alone(model) if pictures is None else look(model, pictures).val
    explorer = opening.opened(subject, layers, batch_size=64)
    origin = Origin("val  # what zfjax.explore was given", has_numbers=pictures is None)
    title = options.pop("title", "a model")
    return serving.serve(explorer, title, inline=inline, origin=origin, **options)
