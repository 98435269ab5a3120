"""Documents and submissions: validating uploads, submitting jobs, queries by owner, actions, event streams, results and zip files.
Called by the blueprints and by web, for the API and the pages alike.
Must not import Flask, or anything above: web, the blueprints, server.
"""
