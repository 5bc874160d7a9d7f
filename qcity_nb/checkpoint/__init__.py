"""State to named buffers to packs, and back."""
