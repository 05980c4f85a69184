"""The simulator: the machines of a real run in virtual time, over a seeded network, in processes that may crash."""
