"""A process without a network, on a machine that may have one."""

# Python code that lets every attempt at a connection fail.
OFFLINE = """
import socket

def refuse(*arguments, **options):
    raise OSError("this process has no network")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
"""
