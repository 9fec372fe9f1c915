"""Rows of the forms that TRL reads."""

WORDS = (
    "the river stone garden winter letter bread lantern quiet market silver window Zömar naïve 水 🎻 don't 3.14 x=y  \n \n\n "
    "\t it's Hello, (what?) … end"
).split(" ")
FORMS = ("text", "text", "prompt-completion", "messages", "messages", "conversations", "chat-completion")


def is_conversation(form):
    return form in ("messages", "conversations", "chat-completion")


def text(draw, most=14):
    words = [draw.one(*WORDS) for _ in range(draw.number(1, most))]
    return " ".join(words)


def turns(draw, with_system):
    """A conversation that ends with the assistant, of one to three exchanges."""
    found = [{"role": "system", "content": text(draw, 5)}] if with_system and draw.chance(0.5) else []
    for _ in range(draw.number(1, 3)):
        found += [{"role": "user", "content": text(draw, 6)}, {"role": "assistant", "content": text(draw, 8)}]
    return found


class Rows:
    """The rows of one case, and where texts stand."""

    def __init__(self, draw, tokenizer):
        self.form = draw.one(*FORMS)
        self.field = draw.one("text", "text", "body") if self.form == "text" else "text"
        self.rows = [self.row(draw, tokenizer) for _ in range(draw.number(5, 12))]
        if draw.chance(0.5):
            self.rows = [{"id": f"row-{place}", **row} for place, row in enumerate(self.rows)]
        if draw.chance(0.3):
            self.rows = [{**row, "source": "here"} for row in self.rows]

    def row(self, draw, tokenizer):
        if self.form == "text":
            return {self.field: self.dressed(text(draw), draw, tokenizer)}
        if self.form == "prompt-completion":
            gap = draw.one("", " ", "\n")
            return {"prompt": text(draw, 8) + gap, "completion": self.dressed(text(draw, 8), draw, tokenizer)}
        conversation = turns(draw, with_system=True)
        if self.form == "messages":
            return {"messages": conversation}
        if self.form == "conversations":
            return {"conversations": [{"from": one["role"], "value": one["content"]} for one in conversation]}
        return {"prompt": conversation[:-1], "completion": conversation[-1:]}

    def dressed(self, text, draw, tokenizer):
        """The text, rarely with a special token that training may put there too, or nothing at all."""
        if draw.chance(0.08):
            return text + draw.one("", "", " ", "\n") + tokenizer.eos_token
        if draw.chance(0.04):
            return text + tokenizer.eos_token + " " + text
        if draw.chance(0.03) and tokenizer.bos_token and self.form == "text":
            return tokenizer.bos_token + text
        if draw.chance(0.06):
            return ""
        return text
