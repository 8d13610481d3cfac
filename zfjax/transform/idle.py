"""What to warn of: rules that find nothing to act on, or act where no paper gives one."""

from collections.abc import Collection, Iterable

from zfjax.transform import curves, jaxprs
from zfjax.transform.selection import Choice, Rules, Where


class RuleWarning(UserWarning):
    """A rule found nothing to act on, cannot act where it should, or acts where the papers say nothing."""


def warnings_of(view: jaxprs.View, rules: Rules) -> list[str]:
    """What to say of expected rules that find nothing, and of those that no paper gives.

    Others need no warning: a maximum's own derivative is its unpooling.
    """
    keys = rules.expected | rules.beyond
    wheres = sorted((key for key in keys if isinstance(key, Where)), key=repr)
    choices = [Choice([(key, key) for key in keys if isinstance(key, str)]), *(Choice([(key, key)]) for key in wheres)]
    acting = set().union(*(choice.acting(view) for choice in choices))
    said = [_loop_text(name, loop) for name, loop in sorted({(name, loop) for _, name, loop in acting if loop})]
    beyond = {name for key, name, loop in acting if key in rules.beyond and not loop}
    if beyond:
        said.append(_beyond_text(beyond))
    found = {key for key, _, _ in acting}
    idle = rules.expected - found - ({"relu"} if found & curves.NAMES else set())
    if names := {key for key in idle if isinstance(key, str)}:
        said.append(_idle_text(names))
    said += [f"no equation with {where!r} in the function: its rule does nothing" for where in wheres if where in idle]
    return said


def _beyond_text(names: Collection[str]) -> str:
    return (
        f"{' and '.join(sorted(names))} in the function: the papers give a rule for ReLU alone, and the one taken here"
        ' is ours (see "Other activations, attention, norms" in Your own model);'
        f" rules.extend({min(names)}=…) takes another"
    )


def _idle_text(names: Iterable[str]) -> str:
    known = (
        "A ReLU is recognized as jax.nn.relu, jnp.maximum(x, 0), jnp.clip(x, 0) or jnp.where(x > 0, x, 0), unless it"
        " guards a square root or a division, or is a part of another activation"
    )
    return (
        f"no {' and no '.join(sorted(names))} found in the function: the rule does nothing, and what it was meant for"
        f" passes its plain gradient. {known}; another function f by its name under jax.jit, with"
        " rules.extend(f=zfjax.rules.rectify)"
    )


def _loop_text(name: str, kind: str) -> str:
    remedy = "write it as a Python loop, or as lax.scan" if kind == "while" else f"use deconvnet inside the {kind}"
    return f"{name} inside {kind}: this is not entered, so there the signal is the plain gradient; {remedy}"
