"""Class maps and images of them, for one's own images and videos."""
