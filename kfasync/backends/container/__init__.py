"""Containers of Docker or Podman: the settings. This version can't run jobs there yet."""
