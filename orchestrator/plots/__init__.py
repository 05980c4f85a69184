"""Pictures of a run that has taken place."""
