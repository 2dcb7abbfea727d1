#!/bin/sh
# Says who answered and whom it saw.
peer=${REMOTE_ADDR#\[}
peer=${peer#::ffff:}
printf 'Content-Type: text/plain\r\n\r\napp %s peer %s\n' "$(hostname)" "${peer%\]}"
