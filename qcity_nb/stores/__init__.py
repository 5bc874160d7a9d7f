"""Where runs live: one module a kind of store."""
