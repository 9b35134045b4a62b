"""The small vocabulary that the `instruction` and `open` kinds are written in."""

TOPICS: dict[str, tuple[str, ...]] = {
    "sea": ("wave", "sand", "salt", "tide", "shell"),
    "forest": ("tree", "leaf", "moss", "bird", "root"),
    "winter": ("snow", "ice", "frost", "wind", "fire"),
    "music": ("song", "drum", "note", "beat", "horn"),
    "city": ("street", "tower", "bus", "light", "park"),
    "food": ("bread", "soup", "rice", "fruit", "tea"),
}
"""A topic and its nouns, in the order in which a plain list names them."""

ADJECTIVES = ("cold", "soft", "blue", "old", "wild", "bright")
OPENERS = ("today", "look", "yes", "now", "once")
CLOSERS = ("done", "end", "friend", "amen", "always")

KEYWORDS = (*ADJECTIVES, *(noun for nouns in TOPICS.values() for noun in nouns))
"""What an `includes` constraint may ask for."""
