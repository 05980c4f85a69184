"""`mpsl doctor`: looks for what keeps a device, node or other process from taking part, and says what to do."""
