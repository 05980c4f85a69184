"""Models, parts and their costs: the only package of the kernel that imports torch."""
