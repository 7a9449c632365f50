"""Clusters of real processes on a real server, killed, stopped and cut off; histories say what they believed."""
