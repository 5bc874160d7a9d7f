"""Hugging Face Jobs as a host."""
