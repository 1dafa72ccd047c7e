"""Whether a request may begin: the gate, who calls, and how much of what they may use is left."""
