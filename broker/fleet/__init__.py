"""The folder of a fleet: its authority, its members' identities, and the files of its broker. `mpsl fleet` keeps it."""
