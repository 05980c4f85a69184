"""Elements of pictures."""
