"""The gateway's HTTP surface: handlers that parse, call and respond."""
