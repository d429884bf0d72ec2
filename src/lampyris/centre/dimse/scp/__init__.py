"""What other nodes ask of the centre, association by association → answers (the SCP of each service)."""
