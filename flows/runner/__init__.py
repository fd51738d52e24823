"""The machinery that runs stages as Prefect flow runs inside the service. See README.md."""
