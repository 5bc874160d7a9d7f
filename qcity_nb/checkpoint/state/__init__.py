"""From live objects to buffers, and back in place."""
