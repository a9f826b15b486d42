"""What operators need of a running registry: collecting, their API, figures, logs, notifications."""
