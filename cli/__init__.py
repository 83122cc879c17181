"""``callboard …``: prints, never decides."""
