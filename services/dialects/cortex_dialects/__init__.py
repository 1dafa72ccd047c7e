"""OpenAI and Anthropic, read and written by pure functions: one copy for the gateway and the neuron."""
