"""Tools for data sets: look at them, check them, prepare them, pass them on."""
