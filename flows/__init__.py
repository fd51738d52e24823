"""One Prefect flow per lifecycle stage: thin, retryable, recorded. No logic lives here."""
