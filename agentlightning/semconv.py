"""Semantic conventions: names of spans and span attributes.

The `gen_ai.*` names come from OpenTelemetry's GenAI conventions (semantic-conventions-genai). These conventions are
still in development, so this module defines the names instead of importing them. The older, indexed attributes
`gen_ai.prompt.N` and `gen_ai.completion.N` are included because many trace viewers read them.
"""

from typing import Final

# Span names
ANNOTATION: Final = "agentlightning.annotation"
MESSAGE: Final = "agentlightning.message"
OBJECT: Final = "agentlightning.object"
EXCEPTION: Final = "agentlightning.exception"
OPERATION: Final = "agentlightning.operation"
VIRTUAL: Final = "agentlightning.virtual"
REWARD: Final = "agentlightning.reward"
LLM_CALL: Final = "openai.chat.completion"

# A span's attempt, and attributes that the store adds
ROLLOUT_ID: Final = "agentlightning.rollout_id"
ATTEMPT_ID: Final = "agentlightning.attempt_id"
SPAN_SEQUENCE_ID: Final = "agentlightning.span_sequence_id"
LATE: Final = "agentlightning.late"
"""True on a span that arrived at the store after its attempt had ended."""
CUT: Final = "agentlightning.cut"
"""Size of the complete span in bytes. Set only on a span that the store returns with its long values truncated."""

# Attributes of spans created by emitters
REWARDS: Final = "agentlightning.reward"
"""Prefix of `agentlightning.reward.N.name` and `.value`. Entry 0 is the primary reward."""
LINKS: Final = "agentlightning.link"
"""Prefix of `agentlightning.link.N.key_match` and `.value_match`: an attribute of a related span."""
TAGS: Final = "agentlightning.tag"
MESSAGE_BODY: Final = "agentlightning.message.body"
OBJECT_TYPE: Final = "agentlightning.object.type"
OBJECT_LITERAL: Final = "agentlightning.object.literal"
OBJECT_JSON: Final = "agentlightning.object.json"
OPERATION_NAME: Final = "agentlightning.operation.name"
OPERATION_INPUT: Final = "agentlightning.operation.input"
OPERATION_OUTPUT: Final = "agentlightning.operation.output"

# Attributes of LLM calls recorded by the wire tap or the proxy
REQUEST: Final = "agentlightning.request"
"""Raw request body as JSON text."""
RESPONSE: Final = "agentlightning.response"
"""Raw response body as JSON text. The events of a stream are combined into one body."""
CAPTURE_ERROR: Final = "agentlightning.capture_error"
TOKEN_IDS: Final = "agentlightning.token_ids"
PROMPT_TOKEN_IDS: Final = "agentlightning.prompt_token_ids"
LOGPROBS: Final = "agentlightning.logprobs"
STREAMED: Final = "agentlightning.streamed"
INCOMPLETE: Final = "agentlightning.incomplete"
"""True on the span of a streamed call whose stream was closed, abandoned or interrupted before its end."""
POLICY_VERSION: Final = "agentlightning.policy_version"
"""Version of the model weights that produced the response, as configured in the proxy."""

# OpenTelemetry's GenAI attributes
GEN_AI_PROMPT: Final = "gen_ai.prompt"
GEN_AI_COMPLETION: Final = "gen_ai.completion"
GEN_AI_INPUT_MESSAGES: Final = "gen_ai.input.messages"
GEN_AI_OUTPUT_MESSAGES: Final = "gen_ai.output.messages"
GEN_AI_SYSTEM_INSTRUCTIONS: Final = "gen_ai.system_instructions"
GEN_AI_TOOL_DEFINITIONS: Final = "gen_ai.tool.definitions"
GEN_AI_OPERATION_NAME: Final = "gen_ai.operation.name"
GEN_AI_PROVIDER_NAME: Final = "gen_ai.provider.name"
GEN_AI_REQUEST_MODEL: Final = "gen_ai.request.model"
GEN_AI_REQUEST: Final = "gen_ai.request"
GEN_AI_RESPONSE_ID: Final = "gen_ai.response.id"
GEN_AI_RESPONSE_MODEL: Final = "gen_ai.response.model"
GEN_AI_RESPONSE_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
GEN_AI_USAGE_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
GEN_AI_USAGE_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
GEN_AI_USAGE_PROMPT_TOKENS: Final = "gen_ai.usage.prompt_tokens"
GEN_AI_USAGE_COMPLETION_TOKENS: Final = "gen_ai.usage.completion_tokens"
GEN_AI_USAGE_TOTAL_TOKENS: Final = "gen_ai.usage.total_tokens"
