"""Models on the Hub: cards from measured results, and pushes that are whole or not there."""
