"""See when and why averaging members works."""
