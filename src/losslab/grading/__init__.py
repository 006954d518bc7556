"""Is an answer right? The official and the corrected verdict, exact match, and the processes that apply them."""
