"""From a laptop to a cluster: check the head, pack the project without secrets, follow the job."""
