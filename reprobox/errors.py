"""Every error that reprobox raises on purpose: what was found, what to do about it, and the exit code that says it.

Exit codes (kept apart so that a negative answer never looks like a failure):
0 reproduced or done, 1 diverged, 2 usage, spec or manifest invalid, 3 engine, lock, image or registry failed,
4 the training program failed, 5 incomparable, 70 bug in reprobox, 130 interrupted.
A reader of standard output that goes away does not change the code.
"""

from __future__ import annotations

EXIT_OK = 0
EXIT_DIVERGED = 1
EXIT_USAGE = 2
EXIT_ENGINE = 3
EXIT_TRAINING = 4
EXIT_INCOMPARABLE = 5
EXIT_BUG = 70
EXIT_INTERRUPTED = 130


class ReproboxError(Exception):
    """A failure with a cause that a person can act on.

    `message` is one line that says what was found and where; `details` are further lines (what was expected, what was
    looked at); `hint` says what to do next.
    """

    exit_code = EXIT_BUG
    needs: tuple[str, ...] = ()
    """What the person has to allow before the same command goes on, for programs: `engine:local`."""

    def __init__(self, message: str, *, details: tuple[str, ...] = (), hint: str | None = None) -> None:
        """Keep the three parts apart, so that the command line can lay them out and `--json` can carry them."""
        super().__init__(message)
        self.message = message
        self.details = details
        self.hint = hint


class UsageError(ReproboxError):
    """The command line asks for something that cannot be: a missing file, options that exclude each other."""

    exit_code = EXIT_USAGE


class ConsentError(UsageError):
    """What is asked for can be done, but only once the person has allowed what it takes."""

    def __init__(self, message: str, *, needs: tuple[str, ...], details: tuple[str, ...] = (), hint: str | None = None):
        """Say also what is to be allowed (`needs`)."""
        super().__init__(message, details=details, hint=hint)
        self.needs = needs


class SpecError(ReproboxError):
    """`reprobox.yaml` or the flags that override it do not describe a run."""

    exit_code = EXIT_USAGE


class ManifestError(ReproboxError):
    """A manifest (or receipt) is malformed, edited, truncated or too large."""

    exit_code = EXIT_USAGE


class NewerSchemaError(ManifestError):
    """A document was written by a later reprobox, in a schema that this one does not know."""


class BundleError(ReproboxError):
    """A bundle (`.rbx`) is malformed, damaged, cut off or unsafe, or the one to be written would be."""

    exit_code = EXIT_USAGE


class LockError(ReproboxError):
    """The requirements cannot be turned into wheels: nothing resolves, or a locked wheel is no longer to be had."""

    exit_code = EXIT_ENGINE


class ImageError(ReproboxError):
    """The image cannot be assembled or loaded."""

    exit_code = EXIT_ENGINE


class RegistryError(ReproboxError):
    """A registry cannot be reached, refuses, or does not hold what was asked of it."""

    exit_code = EXIT_ENGINE


class EngineError(ReproboxError):
    """The engine failed while it was asked for something."""

    exit_code = EXIT_ENGINE


class EngineUnavailableError(EngineError):
    """No engine of the kind asked for answers on this machine."""


class StorageError(ReproboxError):
    """The run folder or the cache cannot be written, for instance because the disk is full."""

    exit_code = EXIT_ENGINE


class UnrecordedError(ReproboxError):
    """A training has ended, but its manifest could not be written; its folder keeps all that was recorded."""

    def __init__(self, message: str, *, exit_code: int, details: tuple[str, ...] = (), hint: str | None = None) -> None:
        """Say also with what code to exit: why the manifest could not be written decides."""
        super().__init__(message, details=details, hint=hint)
        self.exit_code = exit_code


class IncomparableError(ReproboxError):
    """Code, data or lock are not those of the manifest, so a verdict on losses would mean nothing."""

    exit_code = EXIT_INCOMPARABLE


def system_cause(error: BaseException) -> tuple[int | None, str]:
    """Return the number and the words of the operating system's error in the depths of `error`, else its own words."""
    seen: set[int] = set()
    pending: list[object] = [error]
    while pending:
        current = pending.pop(0)
        if not isinstance(current, BaseException) or id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, OSError) and current.errno is not None and current.strerror:
            return current.errno, current.strerror.lower()
        pending += [*current.args, getattr(current, "reason", None), current.__cause__, current.__context__]
    return None, str(error)
