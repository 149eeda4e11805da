# SPDX-License-Identifier: LGPL-2.1-or-later
"""Purpose. Asks a kclone's NBD socket where the blocks are: the meta context kedge:hydrated (docs/formats.md).

Owns. One connection.
"""
import socket
import struct

from .procs import BenchError

CONTEXT = b"kedge:hydrated"
OPT_GO, OPT_STRUCTURED_REPLY, OPT_SET_META_CONTEXT = 7, 8, 10
REP_ACK, REP_META_CONTEXT = 1, 4
CMD_DISC, CMD_BLOCK_STATUS = 2, 7
CHUNK_BLOCK_STATUS, CHUNK_DONE = 5, 1
ASK_BYTES = 1 << 31


class NbdMap:
    """hydrated(): the ranges that are here, as of now."""

    def __init__(self, path, size_bytes):
        self.size_bytes, self.context, self.cookie = size_bytes, None, 0
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(path)
        if self.take(18)[:16] != b"NBDMAGICIHAVEOPT":
            raise BenchError("this is no NBD server")
        self.sock.sendall(struct.pack(">I", 3))
        self.option(OPT_STRUCTURED_REPLY, b"")
        self.option(OPT_SET_META_CONTEXT, struct.pack(">III", 0, 1, len(CONTEXT)) + CONTEXT)
        self.option(OPT_GO, struct.pack(">IH", 0, 0))
        if self.context is None:
            raise BenchError("the server has no kedge:hydrated")

    def take(self, nr_bytes):
        parts = b""
        while len(parts) < nr_bytes:
            part = self.sock.recv(nr_bytes - len(parts))
            if not part:
                raise BenchError("the NBD server closed the connection")
            parts += part
        return parts

    def option(self, number, data):
        self.sock.sendall(b"IHAVEOPT" + struct.pack(">II", number, len(data)) + data)
        while True:
            _, _, kind, length = struct.unpack(">QIII", self.take(20))
            body = self.take(length)
            if kind == REP_META_CONTEXT:
                self.context = struct.unpack(">I", body[:4])[0]
            if kind == REP_ACK:
                return
            if kind & 0x80000000:
                raise BenchError(f"NBD option {number}: error {kind:#x}")

    def ask(self, start_bytes, nr_bytes):
        """[(length, flags)...] from start on, at least one."""
        self.cookie += 1
        self.sock.sendall(struct.pack(">IHHQQI", 0x25609513, 0, CMD_BLOCK_STATUS, self.cookie, start_bytes, nr_bytes))
        found = []
        while True:
            magic, flags, kind, _, length = struct.unpack(">IHHQI", self.take(20))
            body = self.take(length)
            if magic != 0x668e33ef or kind & 0x8000:
                raise BenchError(f"NBD block status: chunk {kind:#x}")
            if kind == CHUNK_BLOCK_STATUS:
                found += [struct.unpack_from(">II", body, at) for at in range(4, length, 8)]
            if flags & CHUNK_DONE:
                return found

    def hydrated(self):
        """[(start, end)...] of what is here, neighbours joined."""
        at, ret = 0, []
        while at < self.size_bytes:
            found = self.ask(at, min(ASK_BYTES, self.size_bytes - at))
            if not found:
                raise BenchError("NBD block status: no descriptor")
            for length, flags in found:
                if flags & 1 and ret and ret[-1][1] == at:
                    ret[-1] = (ret[-1][0], at + length)
                elif flags & 1:
                    ret.append((at, at + length))
                at += length
        return ret

    def close(self):
        self.sock.sendall(struct.pack(">IHHQQI", 0x25609513, 0, CMD_DISC, 0, 0, 0))
        self.sock.close()
