"""One module per library: ``open`` gives an engine, ``convert`` makes what it opens.

Each imports its library at the top, since that import is timed, and runs where crossrank is not installed.
"""
