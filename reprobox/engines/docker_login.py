"""What `docker login` left for a registry: read from Docker's configuration or asked of its credential helpers.

The docker SDK knows both (`docker.auth`), so that a registry that `docker push` may write to needs no second login.
"""

from __future__ import annotations

import warnings

from reprobox.errors import RegistryError
from reprobox.registry.authorisation import Login


def docker_login(host: str) -> Login | None:
    """Return the credentials for a registry, None where there are none.

    Raises RegistryError when they are there and cannot be read, for instance because a credential helper is missing.
    """
    # Takes about 0.1 s to import, and only a registry that asks for credentials needs it.
    from docker import auth, errors

    try:
        with warnings.catch_warnings():
            # A missing helper is warned of and then an error, which says the same.
            warnings.simplefilter("ignore")
            found = auth.load_config().resolve_authconfig(host)
    except (errors.DockerException, ValueError, KeyError, OSError) as error:
        raise RegistryError(
            f"the credentials for {host} in Docker's configuration cannot be read",
            details=(str(error).splitlines()[0],) if str(error) else (),
            hint=f"`docker login {host}` writes them anew; a credential helper named there must be on PATH",
        ) from error
    facts = {key.lower(): value for key, value in (found or {}).items()}
    if facts.get("identitytoken"):
        return Login(user="", secret=facts["identitytoken"], identity_token=True)
    if facts.get("username") and facts.get("password") is not None:
        return Login(user=facts["username"], secret=facts["password"])
    return None
