"""Stand-ins for the processes around the sidecar; standard library only.

standin.py app NAME PORT...            an HTTP service that says who it is and whom it sees
standin.py dns UDP_PORT TCP_PORT NAME A AAAA [ADDRESS]
                                       a resolver that knows one name; on 127.0.0.11, as Docker's
standin.py ask udp|tcp HOST:PORT NAME  one A query; prints the answer and who gave it
"""

import http.server
import ipaddress
import socket
import socketserver
import struct
import sys
import threading

TYPE_A, TYPE_AAAA = 1, 28
TIMEOUT = 3


def without_mapping(address):
    ip = ipaddress.ip_address(address)
    return str(getattr(ip, "ipv4_mapped", None) or ip)


class Service(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    request_queue_size = 64

    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        socketserver.TCPServer.server_bind(self)


def app(name, *ports):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            peer = without_mapping(self.client_address[0])
            port = self.server.server_address[1]
            body = f"app {name}:{port} peer {peer} host {self.headers['Host']}\n".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    services = [Service(("::", int(port)), Handler) for port in ports]
    for service in services[1:]:
        threading.Thread(target=service.serve_forever, daemon=True).start()
    services[0].serve_forever()


def question_end(message):
    at = 12
    while message[at]:
        at += 1 + message[at]
    return at + 5  # the closing zero, the type, the class


def encode_name(name):
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


def answer(query, records):
    """The reply to a query of one question: its record, or an empty answer."""
    end = question_end(query)
    (kind,) = struct.unpack("!H", query[end - 4 : end - 2])
    data = records.get((query[12 : end - 4].lower(), kind))
    header = query[:2] + struct.pack("!HHHHH", 0x8580, 1, 1 if data else 0, 0, 0)
    record = b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 60, len(data)) + data if data else b""
    return header + query[12:end] + record


def receive(stream, size):
    """Up to size bytes: less when the peer ends the stream, also by a reset after its words."""
    data = b""
    while len(data) < size:
        try:
            more = stream.recv(size - len(data))
        except ConnectionResetError:
            if not data:
                raise
            break
        if not more:
            break
        data += more
    return data


def dns(udp_port, tcp_port, name, a, aaaa, address="127.0.0.11"):
    encoded = encode_name(name)
    records = {
        (encoded, TYPE_A): ipaddress.IPv4Address(a).packed,
        (encoded, TYPE_AAAA): ipaddress.IPv6Address(aaaa).packed,
    }

    class Udp(socketserver.BaseRequestHandler):
        def handle(self):
            query, reply_on = self.request
            reply_on.sendto(answer(query, records), self.client_address)

    class Tcp(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.settimeout(TIMEOUT)
            prefix = receive(self.request, 2)
            if len(prefix) == 2:
                query = receive(self.request, struct.unpack("!H", prefix)[0])
                reply = answer(query, records)
                self.request.sendall(struct.pack("!H", len(reply)) + reply)

    tcp = socketserver.ThreadingTCPServer((address, int(tcp_port)), Tcp)
    tcp.daemon_threads = True
    threading.Thread(target=tcp.serve_forever, daemon=True).start()
    socketserver.UDPServer((address, int(udp_port)), Udp).serve_forever()


def ask(transport, server, name):
    host, port = server.rsplit(":", 1)
    query = struct.pack("!HHHHHH", 0x4D49, 0x0100, 1, 0, 0, 0) + encode_name(name) + struct.pack("!HH", TYPE_A, 1)
    kind = socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as s:
        s.settimeout(TIMEOUT)
        if transport == "udp":
            # Not connected: a reply from another address would be seen, not dropped.
            s.sendto(query, (host, int(port)))
            reply, sender = s.recvfrom(512)
        else:
            s.connect((host, int(port)))
            sender = s.getpeername()
            s.sendall(struct.pack("!H", len(query)) + query)
            reply = receive(s, 512)
            if reply[:2] != struct.pack("!H", len(reply) - 2):
                print(reply.decode("ascii", "replace"))
                return
            reply = reply[2:]
    if reply[:2] != query[:2] or struct.unpack("!H", reply[6:8])[0] != 1:
        print(f"no record: {reply.hex()}")
        return
    print(f"A {ipaddress.IPv4Address(reply[-4:])} from {sender[0]}:{sender[1]}")


def main():
    if len(sys.argv) < 3 or sys.argv[1] not in ("app", "dns", "ask"):
        sys.exit(__doc__)
    try:
        {"app": app, "dns": dns, "ask": ask}[sys.argv[1]](*sys.argv[2:])
    except OSError as error:
        sys.exit(f"{' '.join(sys.argv[1:])}: {error}")


if __name__ == "__main__":
    main()
