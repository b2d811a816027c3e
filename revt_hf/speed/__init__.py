"""``revt benchmark``: how fast SegFormers predict and train on the machine at hand."""
