"""What operators, site administrators and auditors change and look up: a page each, under tabs."""
