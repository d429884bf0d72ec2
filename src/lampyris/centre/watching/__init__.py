"""What those who watch are told: sites of their own scans, people of the scans and sites that they may see."""
