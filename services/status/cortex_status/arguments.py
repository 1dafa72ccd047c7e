"""Values of options that several commands take. Called by: fleet_status/command.py, operate/options.py."""

from __future__ import annotations

import argparse
import math


def seconds(text: str) -> float:
    """A time above 0. Raises ArgumentTypeError with the text in it."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value
