"""Names that backends have mistaken for something else, or for each other."""

from __future__ import annotations

# fmt: off
HOSTILE_NAMES = (
    # wildcards, separators and paths of NATS, Redis, SQL, file systems and URLs
    "*", ">", ".", "..", "a.b", "a.*", "a.>", "*.b", "a*", "a", "ab", "b", "$JS.API.>", "$KV", "_INBOX.x", "{a}",
    "/", "a/b", "../..", "..%2f..", "%2e%2e", "%", "_", "-", "a%", "a_", "_%", "a?b", "a#b", "a&b=c", "a:b", "[a-z]",
    "a|b", "a{b}",
    # quotes, comments, injections
    "'", '"', "`", "\\", "''", "a'b", "a' OR '1'='1", "a;b", "a--b", "/*a*/", "a, b", "(a)", "<a>", "$(a)", "${a}",
    # white space that is not a control character, and what only looks like one
    " ", "  ", " a", "a ", "a b", "\u00a0", "\u2028", "\u2029", "\u200b", "\\r\\n", "\\0", "\u240d\u240a", "\ufeffa",
    # case, accents and scripts that are folded or normalised into one another
    "A", "AB", "\u00c9", "\u00e9", "e\u0301", "\u00df", "ss", "SS", "\u0131", "i", "I", "\u0130", "K", "\u212a",
    "\ufb01", "fi", "\u03a9", "\u2126", "\u00f1", "n\u0303", "名前", "имя", "اسم", "\u202eabc", "a\u202eb",
    "👩\u200d🚀", "🚀", "\U0010ffff", "\u0345",
    # what encodings, numbers and nothing look like
    "=41", "=2E", "==QQ", "=", "==", "0", "00", "1", "-1", "1.0", "1e3", "null", "None", "true", "NaN", "undefined",
    # what backends call their own things
    "head", "feed", "identity", "meta", "checkpoint", "snapshot", "lease", "slot", "1.s.a", "aether", "aether.identity",
    "aether:{a}:feed", "aether.e.a", "__seq__", "sqlite_master", "node/1",
    # long ones: in ASCII, in UTF-8, and equal but for their ends
    "x" * 255, "x" * 254 + "y", "x" * 254, "🚀" * 255, "\u00e9" * 200, "." * 255, " " * 255,
)
# fmt: on
"""Valid names: each is one text of 1 to 255 characters, and different from all others."""

# fmt: off
INVALID_NAMES: tuple[object, ...] = (
    "", "\0", "a\0b", "a\n", "\r\n", "a\tb", "\x1b[0m", "\x7f", "\x85", "\x9f", "\ud800", "a\udfff",
    "x" * 256, "x" * 4096, "🚀" * 256, "." * 70_000, None, 1, b"a", ["a"],
)
# fmt: on
"""What is no name: empty, too long, control characters, unpaired surrogates, no text."""
