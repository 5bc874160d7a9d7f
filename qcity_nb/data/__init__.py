"""DVC-tracked data: read, fetch, verify."""
