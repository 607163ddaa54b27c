"""The Loadmaster client library."""
