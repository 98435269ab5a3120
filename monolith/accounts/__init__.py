"""Users, their passwords, sessions and API tokens, and the throttle of logins.
Called by web/security.py, auth and the commands of manage.py.
Must not import Flask, or anything above: documents, web, the blueprints, server.
"""
