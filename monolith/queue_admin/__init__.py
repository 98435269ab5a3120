"""The blueprints for admins, one pair of files for each noun: `<noun>_api.py` answers JSON, `<noun>_pages.py` renders HTML.
`create_app()` registers them.
They hold nothing but HTTP, and must not be imported from below; nor may they import `monolith.server`."""
