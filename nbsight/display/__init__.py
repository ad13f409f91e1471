"""Text, colours and still pictures from plain values; nothing here knows models or notebooks."""
