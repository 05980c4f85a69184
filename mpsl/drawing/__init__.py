"""Pieces of pictures."""
