"""Kinds of objects that need special handling to be pickled: one module per family, each with a table ``HANDLERS``."""
