"""The neuron: one a GPU host. The daemon side holds no torch; engine groups are processes of their own."""
