"""What runs on a slice's hosts: the start-up script, and a unit that trains."""
