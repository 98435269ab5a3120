"""What Linux offers for processes: signals on a parent's death, orphans, memory, a mutex for forked siblings.
The worker, the server and `manage.py` call it.
It must not import anything but the standard library.
"""
