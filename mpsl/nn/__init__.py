"""The only part of the kernel that imports torch: models, stages, what they cost."""
