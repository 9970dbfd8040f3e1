"""How it is measured: turns, rankings, cascades, load, and a GPU."""
