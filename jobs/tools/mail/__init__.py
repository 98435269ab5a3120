"""Sends e-mail over SMTP and renders the templates in `jobs/mail_templates`.
Called by the job types `email` and `quality_check`.
Must not import the other packages of `jobs.tools`."""
