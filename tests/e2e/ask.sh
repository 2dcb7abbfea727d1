#!/bin/sh
# Asks who.sh by the connection that it has as stdin and stdout, and tells the response.
printf 'GET /cgi-bin/who HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n'
exec cat >&2
