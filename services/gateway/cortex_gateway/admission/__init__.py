"""Whether a request may begin: the gate, who calls, and how much of what they may use is left."""

from cortex_gateway.admission.gate import Admission, Gate

__all__ = ["Admission", "Gate"]
