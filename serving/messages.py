"""The turns of a chat request: what they say to Best-of-N, and what of them goes to the generator."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from data.question import Message
from serving.fields import NOTHING

TEXTS = ("text", "input_text", "output_text")
KEPT = ("name", "reasoning", "reasoning_content", "tool_calls", "tool_call_id", "function_call")
"""What a turn may carry beside role and content that a generator understands; the rest is left out."""


MARKS = {"cache_control", "prompt_cache_breakpoint"}


class Part(BaseModel):
    """A part of a turn's content."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(min_length=1, max_length=64)
    text: str | None = None
    refusal: str | None = None

    @model_validator(mode="after")
    def _texts_have_one(self) -> "Part":
        if self.type in TEXTS and self.text is None:
            raise ValueError(f"a part of type {self.type} needs its text")
        return self

    @property
    def said(self) -> str | None:
        """Its text; None for an image, a sound, a file."""
        return self.text if self.type in TEXTS else self.refusal if self.type == "refusal" else None


class ChatMessage(BaseModel):
    """One turn, with whatever a client sends along."""

    model_config = ConfigDict(extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None

    @property
    def text(self) -> str:
        """What it says in words."""
        if isinstance(self.content, list):
            return "".join(part.said or "" for part in self.content)
        return self.content or ""

    def read(self) -> Message:
        """The turn as the rest of the project takes it."""
        role = self.role
        return Message(
            role="system" if role == "developer" else "user" if role in {"tool", "function"} else role,
            content=self.text,
        )

    def sent(self) -> dict[str, Any]:
        """The turn as the generator gets it: texts are one, marks for caches are left out."""
        content: Any = self.text
        if isinstance(self.content, list) and any(part.said is None for part in self.content):
            content = [part.model_dump(exclude_unset=True, exclude=MARKS) for part in self.content]
        kept = {k: v for k, v in (self.model_extra or {}).items() if k in KEPT and v not in NOTHING}
        if "tool_calls" in kept and self.content is None:
            content = None
        return {"role": "system" if self.role == "developer" else self.role, "content": content} | kept

    @property
    def alone(self) -> str | None:
        """Why the generator answers such a turn alone; None where it need not."""
        if self.role in {"tool", "function"}:
            return "tools"
        extra = self.model_extra or {}
        if extra.get("tool_calls") or extra.get("function_call"):
            return "tools"
        others = [p.type for p in self.content if p.said is None] if isinstance(self.content, list) else []
        if others:
            return "images" if all("image" in kind for kind in others) else "parts"
        return None


def reasons_alone(messages: Sequence[ChatMessage]) -> dict[str, str]:
    """Why the generator answers alone, by the path of the turn that says so."""
    return {f"messages.{n}": why for n, message in enumerate(messages) if (why := message.alone)}
