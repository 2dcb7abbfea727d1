"""mitmproxy as a sidecar, as an addon for two listeners in transparent mode: outbound connections arrive on 15001 and go on
to where they were going, inbound ones on 15006 and go to the app."""


def at(host, port):
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def request(flow):
    listener = flow.client_conn.proxy_mode.full_spec.rpartition("@")[2]
    client = flow.client_conn.peername[0]
    # Without a proxy's words in the request it is what the kernel told of the connection.
    host, port = flow.request.host, flow.request.port
    flow.metadata["hop"] = f"mitmproxy {listener} {client} -> {at(host, port)}"
    if listener == "15006":
        named = flow.request.host_header
        flow.request.host = "::1" if ":" in host else "127.0.0.1"
        flow.request.host_header = named


def response(flow):
    flow.response.headers["x-mesh-proxy"] = flow.metadata["hop"]
