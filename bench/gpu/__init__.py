"""The CUDA engine: what its kernels compile to, whether it is right, and how near to the card's limits it works."""
