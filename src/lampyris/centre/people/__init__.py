"""Who may see and do what: people and machines, their roles at tenants, their sessions."""
