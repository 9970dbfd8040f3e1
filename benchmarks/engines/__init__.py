"""Who is measured: each engine in a process and an environment of its own."""
