"""Tools for datasets: look at them, check them, prepare them, pass them on."""
