"""Models of any structure: exported by torch.export, and cut by the values that are live between two blocks."""
