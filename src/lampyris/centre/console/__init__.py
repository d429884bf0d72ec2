"""What people see of the centre: pages of HTML, made on the server."""
