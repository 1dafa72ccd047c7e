"""What both services do alike to serve HTTP: Sanic on our own loop, JSON logs, errors in the request's dialect."""
