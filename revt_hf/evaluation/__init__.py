"""The original's test protocol, its metric, and a models-x-domains run."""
