"""Where things lie for a program that runs in a container, whichever engine made it."""

from __future__ import annotations

# The virtual environment with the packages that were locked.
ENVIRONMENT = "/opt/env"
# The code, and whatever the program writes beside it: its current folder.
WORK = "/work"
# What the runtime writes.
RECORD = "/reprobox/record"
# The runtime and its start files, read-only.
SITE = "/reprobox/site"
# Libraries of the machine's NVIDIA driver, where the engine has no way of its own to bring them in.
DRIVER = "/reprobox/driver"
TEMPORARY = "/tmp"

# What a container gets whose image names no PATH: Docker's own default (moby, oci/defaults.go).
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
