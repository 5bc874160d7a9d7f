"""What the source of a cell says: names, side effects, tags, the hash chain. No kernel, no pickling.

May import: root. Imported by: namespace, kernel, engine, interactive.
"""
