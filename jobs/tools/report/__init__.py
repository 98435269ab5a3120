"""Reports on jobs: figures from the ledger, charts and tables as PDF, every job as CSV.
Called by the job type `report`, which imports the PDF part when it runs.
Must not import the other packages of `jobs.tools`."""
