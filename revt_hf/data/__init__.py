"""Images and labels: domains, label encodings, augmentation, reading."""
