"""Push millions of texts through language-model APIs."""
