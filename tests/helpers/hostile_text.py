"""Text that tries to move the cursor or to start a line of its own."""

CONTROLS = [
    "\x1b[2J",
    "\x1b]8;;http://evil.test\x07",
    "\x9b2J",
    "\r",
    "\n",
    "\x08",
    "\u202e",
    "\u2066",
    "\u2028",
    "\x85",
    "\U000e0041",
]
HOSTILE = "".join(CONTROLS)


def is_harmless(text):
    """Whether there is no control character but line ends."""
    return all(c.isprintable() or c == "\n" for c in text)
