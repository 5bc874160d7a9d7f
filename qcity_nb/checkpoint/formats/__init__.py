"""Checkpoints in other libraries' formats: flat arrays, safetensors, torch DCP."""
