"""A scan's bytes over a bad line or none → how fast the protocol brings them, beside tus and a plain PUT."""
