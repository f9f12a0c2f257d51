"""The Tracker and its methods: each hands a decision of ``rules`` to the store, and calls the provider."""
