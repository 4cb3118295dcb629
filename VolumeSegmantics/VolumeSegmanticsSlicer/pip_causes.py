"""What pip's output means: a table of signs in it, each with its sentence and its remedy."""

from __future__ import annotations

_NETWORK_HINT = (
    "Connect to the internet and try again; or name an external Python that has the packages, under Advanced."
)
CAUSES: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        ("WinError 206", "Errno 36", "File name too long", "path is too long"),
        "A file of a package has a longer name than the system takes.",
        "Install Slicer in a folder with a short name, such as C:\\Slicer, and try again there.",
    ),
    (
        ("No space left", "Errno 28", "WinError 112"),
        "The disk is full.",
        "PyTorch needs up to 8 GB while it is installed: make room, and try again.",
    ),
    (
        ("ProxyError", "Tunnel connection failed", "407 Proxy", "Cannot connect to proxy"),
        "The proxy refuses the connection.",
        "Set HTTPS_PROXY to http://user:password@host:port before Slicer starts; ask for its value where you work.",
    ),
    (
        ("CERTIFICATE_VERIFY_FAILED", "SSLError", "SSLCertVerificationError"),
        "The certificate of the package index is not trusted; often a proxy has put its own in its place.",
        "Set PIP_CERT to the certificate file of your network before Slicer starts.",
    ),
    (
        ("Temporary failure in name", "getaddrinfo failed", "NewConnectionError", "Network is unreachable", "timed out",
         "nodename nor servname", "Connection refused", "Name or service not known"),
        "The package index cannot be reached.",
        _NETWORK_HINT,
    ),
    (
        ("Permission denied", "Errno 13", "WinError 5]", "WinError 32", "Access is denied"),
        "A file of Slicer's Python cannot be written, or is in use.",
        "Close other Slicers, start Slicer as the user who installed it, and try again.",
    ),
    (
        ("No matching distribution", "ResolutionImpossible", "conflicting dependencies"),
        "No versions of the packages go with those that Slicer ships.",
        "Use the newest Slicer, or name an external Python under Advanced.",
    ),
)  # fmt: skip
"""What is to be read in the output of pip, what it means, and what to do about it."""


def explain(output: str) -> tuple[str, str] | None:
    """Return the sentence and the remedy for what pip has printed; None where it is not known."""
    for signs, sentence, remedy in CAUSES:
        if any(sign.lower() in output.lower() for sign in signs):
            return sentence, remedy
    return None
