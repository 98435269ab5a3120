"""Blueprint: documents, jobs, batches, webhooks and job types; for each a file of the API and one of the pages.
Registered by create_app(); nothing else calls it.
Must not import the other blueprints or server. It holds HTTP only: the functions are in documents and runner.
"""
