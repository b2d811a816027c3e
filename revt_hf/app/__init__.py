"""A page in the browser that shows models at work: ``revt app``."""
