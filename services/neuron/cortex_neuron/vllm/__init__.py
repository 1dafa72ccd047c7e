"""The harness `vllm`: a model served by a vLLM of its own, behind this neuron's port.

The server listens on a Unix socket in the neuron's runtime folder, where nobody else on the host can ask it; the neuron
passes requests on to it (api/passing_on.py), so that seats, drains, metrics and broken streams are as with any model.
"""
