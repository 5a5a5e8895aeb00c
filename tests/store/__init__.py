"""The store's wire, its memory of calls, its durability, and its model."""
