"""The stages of a run, one module each: what it reads, what it writes, when it stops."""
