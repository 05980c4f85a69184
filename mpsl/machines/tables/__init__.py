"""The transition tables of the three machines, and the interpreter that alone changes a state."""
