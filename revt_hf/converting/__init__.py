"""The original's checkpoints to SegFormer folders, and back."""
