"""Blueprint: signing in and out, and one's own account, as API and as pages.
Registered by create_app(); nothing else calls it.
Must not import the other blueprints or server. It holds HTTP only: the functions are in accounts.
"""
