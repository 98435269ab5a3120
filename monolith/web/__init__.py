"""What all HTTP requests share: security, rate limits, JSON, forms, problems, OpenAPI, static files, streams, health and metrics.
Called by the blueprints auth, jobs and queue_admin, and by create_app().
Must not import the blueprints or server.
"""
