"""Pure functions from records to HTML, SVG and text.

May import: root. Imported by: sidecar, kernel, cli.
"""
