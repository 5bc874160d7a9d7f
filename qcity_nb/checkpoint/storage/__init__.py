"""Packs, manifests and the local tier: what lies on the disk."""
