"""Servers that wedge whoever delivers to them: on 127.0.0.2 one that takes STARTTLS and says nothing more, on 127.0.0.3 one
that takes an octet of a body a second. wedge.py PORT; each connection has a thread, which ends with the process."""
import socket
import sys
import threading
import time


def serve(connection, is_silent):
    lines = connection.makefile("rb", buffering=0)
    say = lambda text: connection.sendall(text + b"\r\n")
    say(b"220 wedge ESMTP")
    while line := lines.readline():
        word = line.split()[0].upper()
        if word == b"EHLO" and is_silent:
            say(b"250-wedge\r\n250 STARTTLS")
        elif word == b"STARTTLS":
            say(b"220 go ahead")
            while connection.recv(4096):
                pass
        elif word == b"DATA":
            say(b"354 go ahead")
            while connection.recv(1):
                time.sleep(1)
        else:
            say(b"250 fine")


def serve_until_gone(*arguments):
    try:
        serve(*arguments)
    except OSError:
        pass
    arguments[0].close()


def listen(address, is_silent):
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Small, as are its segments, so that the sender's system takes little of a body that isn't read.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    listener.bind(address)
    listener.listen(64)
    return listener, is_silent


def accept(listener, is_silent):
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve_until_gone, args=(connection, is_silent), daemon=True).start()


port = int(sys.argv[1])
silent = listen(("127.0.0.2", port), True)
slow = listen(("127.0.0.3", port), False)
threading.Thread(target=accept, args=silent, daemon=True).start()
accept(*slow)
