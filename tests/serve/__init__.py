"""Tests of the server: its engine, its protocol, its page."""
