"""What people and machines did, as a chain that cannot be changed unnoticed."""
