"""Reads and writes events on a CalDAV server, as iCalendar.
Called by the job type `calendar`.
Must not import the other packages of `jobs.tools`."""
