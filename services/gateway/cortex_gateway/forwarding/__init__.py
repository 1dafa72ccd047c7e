"""Getting a request to a neuron and its answer to the client."""
