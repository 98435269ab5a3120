"""Scripts for developers: what they make is committed. None is part of a running Intray."""
