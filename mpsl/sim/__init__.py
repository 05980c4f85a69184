"""The simulator: the very machines of a run in virtual time, over a seeded network, in processes that may crash."""
