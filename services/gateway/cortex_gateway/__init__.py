"""The gateway: the fleet's stateless control plane. It routes, waits for cold loads, forwards and counts."""
