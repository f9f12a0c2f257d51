"""The Tracker and its methods. Each passes a decision of ``rules`` to the store, and calls the provider."""
