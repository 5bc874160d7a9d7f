"""Kinds of objects that need care to be pickled: one module a family, each with a table ``HANDLERS``."""
