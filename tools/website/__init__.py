"""The web edition: pages from the stored notebooks and docs/, built by Sphinx. Nothing is executed."""
