"""What a process of the centre does → log, metrics and traces; ids and numbers, never a name."""
