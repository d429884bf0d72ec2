"""Benchmarks: ours beside its peers, on the same work, in the same run, each case in a process of its own."""
