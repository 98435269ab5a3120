"""The engine: what happens to a job from its submission to its deletion, in one folder for each part.
The web application, the worker and the clock call it.
It must not import Flask, accounts, documents, the pages or the server."""
