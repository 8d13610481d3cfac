"""A process of several that train one after the other: python together.py WORDS, of which the tests say what they are.

It joins the others once. Before it trains it may find the folder held, which is said and left at that.
"""

import contextlib
import json
import sys
from concurrent.futures import ThreadPoolExecutor

import killed
import quick

from zfjax import train
from zfjax.console import command, signals
from zfjax.console.errors import UserError
from zfjax.console.hold import hold


def refused(folder, words):
    """Train while the folder is held, which stands for another command that is at it, and print why it is refused."""
    with ThreadPoolExecutor(1) as another, contextlib.ExitStack() as stack:
        if folder:
            another.submit(stack.enter_context, hold(folder, "another command")).result()
        try:
            train.main(words)
        except UserError as error:
            print(error, flush=True)
        another.submit(stack.close).result()


def main(_):
    """Train in each folder that is asked for."""
    joining, held, moment, runs = json.loads(sys.argv[1])
    if held is not None:
        refused(held, [*runs[0], *joining])
        joining = []
    if moment:
        killed.send_at(moment[1], moment[0])
    for words in runs:
        train.main([*words, *joining])
        joining = []


if __name__ == "__main__":
    signals.listen()
    quick.prepare()
    command.execute(main)
