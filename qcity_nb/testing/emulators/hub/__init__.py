"""An emulator of the Hugging Face Hub for tests: a loopback server that the unmodified huggingface_hub talks to."""
