"""The acceptance policy as flags, shared by `replay` and `compare`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from reprobox.cli.options import Function

if TYPE_CHECKING:
    from reprobox.trajectory.model import Tolerance


def tolerance_options(function: Function) -> Function:
    """Give a command --rtol and --atol."""
    bound = click.FloatRange(min=0)
    function = click.option(
        "--atol", "absolute", type=bound, default=0.0, help="Accept losses this far apart (WITHIN_TOLERANCE)."
    )(function)
    return click.option(
        "--rtol", "relative", type=bound, default=0.0, help="Accept losses this far apart, relative to the recorded."
    )(function)


def tolerance_from(relative: float, absolute: float) -> Tolerance | None:
    """Return the policy that the flags ask for, None for bit equality."""
    from reprobox.trajectory.model import Tolerance

    return Tolerance(relative=relative, absolute=absolute) if relative or absolute else None
