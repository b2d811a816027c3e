"""Re-parameterised vision transformers (ReVT) with Hugging Face libraries.

Fine-tune several SegFormers with different augmentations, average their encoders, keep one
decode head: one model that generalises better to unseen domains, at the cost of one.
"""

__version__ = "0.1.0"
