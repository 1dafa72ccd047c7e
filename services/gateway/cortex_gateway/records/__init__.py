"""What is written down of requests and decisions: metrics, traces, the access log, the last decisions."""
