"""Live objects to buffers, and back into place."""
