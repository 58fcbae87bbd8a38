"""Stands between the perimeter and a source, byte for byte, and does what sources and networks do on bad days."""

import contextlib
import socket
import threading

MODES = ("pass", "refuse", "hang", "cut", "nonsense")
NONSENSE = b"sekret-of-the-network\r\n" * 20


class Between:
    """
        pass        hands everything on
        refuse      closes every connection
        hang        takes what is asked, and nothing comes back
        cut         breaks off within the first answer
        nonsense    answers something that is in no protocol
    """

    def __init__(self, port, keeps=False):
        """`keeps` what was asked, by connection."""
        self.upstream, self.mode, self.keeps, self.kept = port, "pass", keeps, []
        self.changed, self.ends, self.lock = threading.Event(), set(), threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def do(self, mode):
        """From now on; connections from before end, but for those that are to hang."""
        assert mode in MODES, mode
        self.mode = mode
        self.changed.set()
        self.changed = threading.Event()
        if mode != "hang":
            self.end_all()

    @contextlib.contextmanager
    def doing(self, mode):
        self.do(mode)
        try:
            yield
        finally:
            self.do("pass")

    def end_all(self):
        with self.lock:
            ends = list(self.ends)
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                client = self.listener.accept()[0]
                threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        if self.mode == "refuse":
            client.close()
            return
        with contextlib.suppress(OSError), client, socket.create_connection(("127.0.0.1", self.upstream)) as server:
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.lock:
                self.ends |= {client, server}
            try:
                threading.Thread(target=self.pump, args=(client, server), daemon=True).start()
                self.answer(server, client)
            finally:
                with self.lock:
                    self.ends -= {client, server}
                # The other pump waits for one of them.
                for end in (client, server):
                    with contextlib.suppress(OSError):
                        end.shutdown(socket.SHUT_RDWR)

    def pump(self, source, sink):
        kept = bytearray()
        if self.keeps:
            self.kept.append(kept)
        with contextlib.suppress(OSError):
            while part := source.recv(1 << 16):
                if self.keeps:
                    kept += part
                sink.sendall(part)
            sink.shutdown(socket.SHUT_WR)

    def answer(self, server, client):
        while part := server.recv(1 << 16):
            if self.mode == "hang":
                self.changed.wait()
                return
            if self.mode == "cut":
                client.sendall(part[:len(part) // 2])
                return
            client.sendall(NONSENSE if self.mode == "nonsense" else part)

    def close(self):
        self.listener.close()
        self.do("refuse")
