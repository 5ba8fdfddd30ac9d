"""What the user chooses beside the requirements file, and which of it a kind of file leaves room for."""

from __future__ import annotations

import datetime
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reprobox.errors import SpecError


@dataclass(frozen=True, kw_only=True)
class Choices:
    """`groups` and `extras` of a pyproject.toml, `exclude_newer` (a day or a moment, UTC), `torch_backend` (cpu, cu128,
    auto, ...): the fields of the same names in `environment` of a spec.
    """

    groups: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    exclude_newer: str | None = None
    torch_backend: str | None = None

    def check_room(self, shown: str, *, groups: bool, extras: bool, resolving: bool) -> None:
        """Refuse what the requirements file `shown` leaves no room for.

        `groups` and `extras` say whether it can have any, `resolving` whether versions are still to be chosen. Raises
        SpecError: a choice without effect would be one that the user believes in.
        """
        unfit = [name for name, room in (("groups", groups), ("extras", extras)) if getattr(self, name) and not room]
        if unfit:
            raise SpecError(
                f"{shown} has no {' or '.join(unfit)}",
                details=tuple(f"environment.{name}: {', '.join(getattr(self, name))}" for name in unfit),
                hint="Name the pyproject.toml or the lock that has them (environment.requirements), or leave it out.",
            )
        late = [name for name in ("exclude_newer", "torch_backend") if getattr(self, name) is not None]
        if late and not resolving:
            raise SpecError(
                f"{shown} is a lock already: environment.{late[0]} has nothing left to choose",
                details=("expected a file whose versions are still open, such as requirements.txt or pyproject.toml",),
                hint="Make that lock anew with the tool that wrote it, or leave the field out.",
            )

    @property
    def arguments(self) -> tuple[str, ...]:
        """The flags by which `uv pip compile` is told of dates and builds. Raises SpecError for a day that is none."""
        found: list[str] = []
        if self.exclude_newer is not None:
            try:
                datetime.datetime.fromisoformat(self.exclude_newer)
            except ValueError as error:
                raise SpecError(
                    f"environment.exclude_newer: there is no such day or moment: {self.exclude_newer}",
                    details=(str(error),),
                ) from error
            found += ["--exclude-newer", self.exclude_newer]
        if self.torch_backend is not None:
            found += ["--torch-backend", self.torch_backend]
        return tuple(found)

    def as_key(self) -> dict[str, Any]:
        """Return what a resolution depends on; for torch_backend `auto` that includes this machine's driver."""
        key = {name: value for name, value in asdict(self).items() if value}
        if self.torch_backend == "auto":
            key["driver"] = _driver_version()
        return key


def _driver_version() -> str:
    try:
        # Source: the driver's README, "The sysfs interface": one line, such as 550.54.15.
        return Path("/sys/module/nvidia/version").read_text().strip()
    except OSError:
        return ""
