"""Packs, manifests and the local tier: the files of a checkpoint."""
