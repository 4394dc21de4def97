"""Results as text for people, as JSON for programs, as JUnit XML for CI systems."""
