"""A thousand sites → one centre on this machine: what its control plane carries, and what a province would need."""
