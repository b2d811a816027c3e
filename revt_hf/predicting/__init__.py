"""Class maps and pictures of them, for one's own pictures and videos."""
