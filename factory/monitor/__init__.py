"""What a run tells while it goes on: metrics, structured logs, lineage events, a live table."""
